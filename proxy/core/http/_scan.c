/* Reads the fields of an ordinary head in one pass.

   It accepts less than the reading in head.py does, which it only saves: whatever is out of the ordinary is None here,
   and judged there. For what it accepts, the result is the same; a test holds the two against each other. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

/* One more with every change of what the function means: head.py leaves an older one aside. */
#define VERSION 1
#define LONGEST_LENGTH 15 /* digits of a Content-Length */

#define NAME 1
#define VALUE 2

/* What each byte may be part of: a token (RFC 9110, 5.6.2), a field's value (5.5). */
static unsigned char kinds[256];
/* The lower-case form of a letter, "-" for "_", all others as they are. */
static unsigned char plain[256];

enum { CONTENT_LENGTH, CONNECTION, HOST, EXPECT, CLAIM, NAMES };
static PyObject *names[NAMES];
enum { RARE = NAMES, IRRELEVANT };

static void
fill_tables(void)
{
    for (int byte = 0; byte < 256; byte++) {
        plain[byte] = (unsigned char)byte;
        if (byte == '\t' || (byte >= 0x20 && byte != 0x7f)) {
            kinds[byte] |= VALUE;
        }
        if ((byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z')) {
            kinds[byte] |= NAME;
        }
        if (byte >= 'A' && byte <= 'Z') {
            kinds[byte] |= NAME;
            plain[byte] = (unsigned char)(byte + 'a' - 'A');
        }
    }
    for (const char *mark = "!#$%&'*+-.^_`|~"; *mark != '\0'; mark++) {
        kinds[(unsigned char)*mark] |= NAME;
    }
    plain['_'] = '-';
}

/* Whether a name begins with `wanted`, in lower case and with "-" for "_". */
static int
begins(const unsigned char *name, Py_ssize_t size, const char *wanted, Py_ssize_t length)
{
    if (size < length) {
        return 0;
    }
    for (Py_ssize_t at = 0; at < length; at++) {
        if (plain[name[at]] != (unsigned char)wanted[at]) {
            return 0;
        }
    }
    return 1;
}

#define BEGINS(name, size, wanted) begins(name, size, wanted, (Py_ssize_t)sizeof(wanted) - 1)
#define IS(name, size, wanted) ((size) == (Py_ssize_t)sizeof(wanted) - 1 && BEGINS(name, size, wanted))

static int
meaning_of(const unsigned char *name, Py_ssize_t size)
{
    switch (plain[name[0]]) {
    case 'c':
        if (IS(name, size, "content-length")) {
            return name[7] == '-' ? CONTENT_LENGTH : RARE;
        }
        return IS(name, size, "connection") ? CONNECTION : IRRELEVANT;
    case 'h':
        return IS(name, size, "host") ? HOST : IRRELEVANT;
    case 'e':
        return IS(name, size, "expect") ? EXPECT : IRRELEVANT;
    case 'f':
        return BEGINS(name, size, "forwarded") ? CLAIM : IRRELEVANT;
    case 'x':
        return BEGINS(name, size, "x-forwarded-") || BEGINS(name, size, "x-real-ip") ? CLAIM : IRRELEVANT;
    case 't':
        return IS(name, size, "transfer-encoding") ? RARE : IRRELEVANT;
    case 'u':
        return IS(name, size, "upgrade") ? RARE : IRRELEVANT;
    default:
        return IRRELEVANT;
    }
}

static int
is_length(const unsigned char *value, Py_ssize_t size)
{
    if (size < 1 || size > LONGEST_LENGTH) {
        return 0;
    }
    for (Py_ssize_t at = 0; at < size; at++) {
        if (value[at] < '0' || value[at] > '9') {
            return 0;
        }
    }
    return 1;
}

/* 1, or 0 for what is out of the ordinary, or -1 with an exception set. */
static int
read_fields(const unsigned char *at, const unsigned char *end, PyObject *values)
{
    int seen = 0;
    while (end - at > 2) {
        const unsigned char *name = at;
        while (at < end && kinds[*at] & NAME) {
            at++;
        }
        Py_ssize_t name_size = at - name;
        if (name_size == 0 || at == end || *at != ':') {
            return 0;
        }
        const unsigned char *value = ++at;
        while (at < end && kinds[*at] & VALUE) {
            at++;
        }
        const unsigned char *behind = at;
        if (end - at < 4 || at[0] != '\r' || at[1] != '\n') {
            return 0;
        }
        at += 2;
        int meaning = meaning_of(name, name_size);
        if (meaning == IRRELEVANT) {
            continue;
        }
        if (meaning == RARE) {
            return 0;
        }
        if (seen & 1 << meaning) {
            if (meaning == CLAIM) {
                continue; /* that there is one is all that counts */
            }
            return 0;
        }
        seen |= 1 << meaning;
        while (value < behind && (*value == ' ' || *value == '\t')) {
            value++;
        }
        while (behind > value && (behind[-1] == ' ' || behind[-1] == '\t')) {
            behind--;
        }
        if (meaning == CONTENT_LENGTH && !is_length(value, behind - value)) {
            return 0;
        }
        PyObject *text = PyBytes_FromStringAndSize((const char *)value, behind - value);
        if (text == NULL) {
            return -1;
        }
        int failed = PyDict_SetItem(values, names[meaning], text);
        Py_DECREF(text);
        if (failed) {
            return -1;
        }
    }
    return end - at == 2 && at[0] == '\r' && at[1] == '\n';
}

static PyObject *
scan(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "scan(raw: bytes, start: int)");
        return NULL;
    }
    Py_ssize_t start = PyLong_AsSsize_t(args[1]), size = PyBytes_GET_SIZE(args[0]);
    if (start == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (start < 0 || start > size) {
        PyErr_SetString(PyExc_ValueError, "fields begin within the head");
        return NULL;
    }
    const unsigned char *raw = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    PyObject *values = PyDict_New();
    if (values == NULL) {
        return NULL;
    }
    int result = read_fields(raw + start, raw + size, values);
    if (result == 1) {
        return values;
    }
    Py_DECREF(values);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"scan", (PyCFunction)(void (*)(void))scan, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "proxy.core.http._scan", .m_size = -1, .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__scan(void)
{
    static const char *const texts[NAMES] = {"content-length", "connection", "host", "expect", ""};
    fill_tables();
    for (int each = 0; each < NAMES; each++) {
        if (names[each] == NULL && (names[each] = PyBytes_FromString(texts[each])) == NULL) {
            return NULL;
        }
    }
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "VERSION", VERSION) < 0) {
        Py_CLEAR(module);
    }
    return module;
}
