"""A suggestion that is not what was meant is worse than none."""

from proxy.config.suggest import listed, nearest, suggest


def test_a_misspelt_word_leads_to_the_right_one_whatever_its_case() -> None:
    assert suggest("intervall", ["timeout", "interval"]) == "interval"
    assert suggest("sigterm", ["SIGTERM", "SIGINT"]) == "SIGTERM"


def test_a_word_unlike_any_other_leads_nowhere() -> None:
    assert suggest("zebra", ["timeout", "interval"]) == ""
    assert suggest("x", []) == ""


def test_known_words_are_listed_nearest_first() -> None:
    assert nearest("v12", ["other", "v1", "v123"]) == ["v123", "v1", "other"]


def test_choices_read_as_a_sentence() -> None:
    assert listed(["a"]) == '"a"'
    assert listed(["a", "b", "c"]) == '"a", "b" or "c"'
    assert listed(["a", "b"], "and") == '"a" and "b"'
