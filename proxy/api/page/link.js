// The event stream, for as long as somebody looks: lost, it is tried again; behind other tabs, it rests.

const AGAIN = 1000; // milliseconds until a lost stream is tried again, and up to as many more: not all pages at once
const SILENCE = 12000; // milliseconds without a word after which it counts as lost; the proxy speaks every 5 s
const AWAY = 10000; // milliseconds that the page may be out of sight before its stream is let go
const TYPES = ["status", "phase", "drain", "result", "action"];

export class Link {
  #source = null;
  #timer = null;
  #silence = null;
  #isWhole = false;

  /** `store` learns of every event; `onChange` is called after that. */
  constructor(store, onChange) {
    this.store = store;
    this.onChange = onChange;
    document.addEventListener("visibilitychange", () => this.#seen(!document.hidden));
  }

  open() {
    this.close();
    this.#isWhole = false;
    this.#source = new EventSource("/v1/events?status=true");
    for (const type of TYPES) this.#source.addEventListener(type, (event) => this.#take(JSON.parse(event.data)));
    this.#source.onerror = () => this.#lost();
    this.#listen();
  }

  close() {
    this.#source?.close();
    this.#source = null;
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
  }

  async #take(event) {
    this.#listen();
    this.store.take(event);
    if (event.whole && !this.#isWhole) {
      this.#isWhole = true;
      try {
        await this.store.catchUp();
        this.store.connected("live");
      } catch {
        this.#lost();
      }
    }
    this.onChange();
  }

  /** Somebody whose session has ended is sent to sign in: `ask` does that. */
  #lost() {
    this.close();
    this.store.connected("lost");
    this.onChange();
    this.#timer = setTimeout(async () => {
      try {
        await this.store.catchUp();
        this.open();
      } catch {
        this.#lost();
      }
    }, AGAIN * (1 + Math.random()));
  }

  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#lost(), SILENCE);
  }

  #seen(isVisible) {
    clearTimeout(this.#timer);
    if (!isVisible) this.#timer = setTimeout(() => this.close(), AWAY);
    else if (!this.#source) this.open();
  }
}
