// Ask the proxy. What it refuses comes as an Error with the hint that goes with it.

export class Refused extends Error {
  constructor(status, { message, hint, problems, output }) {
    super(message);
    this.status = status;
    this.hint = hint || "";
    this.details = problems?.map((each) => `${each.file}:${each.line}: ${each.key} ${each.message}`) || output || [];
  }
}

/** GET, or with a body POST; returns what is answered. Throws Refused, or a TypeError where nobody answers. */
export async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const response = await fetch(path, { ...options, headers: { "Content-Type": "application/json" } });
  if (response.ok) return response.json();
  if (response.status === 401) location.assign("/login");
  let error = { message: `the proxy answered with status ${response.status}` };
  try {
    error = (await response.json()).error;
  } catch {
    // not in its own words, then
  }
  throw new Refused(response.status, error);
}

/** The path of a service, or of one of its verbs. */
export function servicePath(...parts) {
  return `/v1/services/${parts.map(encodeURIComponent).join("/")}`;
}

/** Read a text as it comes, until `signal` is aborted or it ends. */
export async function* stream(path, signal) {
  const response = await fetch(path, { signal });
  if (!response.ok) throw new Refused(response.status, (await response.json()).error);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    yield value;
  }
}
