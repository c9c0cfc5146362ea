// Numbers as people read them; the same as in `proxyctl`.

/** How long something took: `8ms`, `1.25s`, `2m03s`, `1h02m`. */
export function took(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)}ms`;
  if (seconds < 59.995) return `${seconds.toFixed(2)}s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  const rest = Math.round(seconds) % 60;
  return minutes < 60 ? `${minutes}m${two(rest)}s` : `${Math.floor(minutes / 60)}h${two(minutes % 60)}m`;
}

/** How long ago, in the two units that matter: `5s`, `3m20s`, `2h05m`, `4d12h`. */
export function age(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d${two(Math.floor((whole % 86400) / 3600))}h`;
}

/** A length of time that somebody has configured: `30s`, `1m30s`, `1.5s`. */
export function duration(seconds) {
  if (seconds < 60) return `${Number(seconds.toFixed(3))}s`;
  const minutes = Math.floor(seconds / 60);
  const rest = Math.round(seconds % 60);
  return rest ? `${minutes}m${rest}s` : `${minutes}m`;
}

/** `1 connection`, `3 connections`. */
export function plural(count, noun) {
  return count === 1 ? `1 ${noun}` : `${count.toLocaleString()} ${noun}s`;
}

/** A Unix time: the time of day, and the day where that is not today. */
export function clock(time) {
  const when = new Date(time * 1000);
  const day = when.toDateString() === new Date().toDateString();
  const text = when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return day ? text : `${when.toLocaleDateString([], { month: "short", day: "numeric" })} ${text}`;
}

function two(number) {
  return String(number).padStart(2, "0");
}
