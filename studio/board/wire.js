/* The way to the server: every change is sent, in order, again and again until it has arrived. */

const SAVE_MS = 300;
const RETRY_MS = [1000, 2000, 5000, 10000];

/** What the server has refused, in its own words. */
export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** That the server can store nothing for now, in its own words: what was sent may be sent again. */
export class Unable extends Error {}

/** Asks the server. Throws a Refusal, or an Unable, or a TypeError when there is no connection. */
export async function call(base, name, body, options = {}) {
  const answer = await fetch(`${base}/${name}`, {
    method: "POST", body: JSON.stringify(body), credentials: "same-origin", ...options,
    headers: { "content-type": "application/json", "x-unimed-studio": "1" },
  });
  const found = await answer.json().catch(() => null);
  if (answer.status >= 500 && found?.error) throw new Unable(found.error);
  if (!found || answer.status >= 500) throw new TypeError("The studio does not answer");
  if (!answer.ok) throw new Refusal(found.error, answer.status);
  return found;
}

/** Saves the newest of what it is given: one request at a time, after a moment of quiet, until it is through. */
export class Saver {
  constructor(base, tell) {
    this.base = base;
    this.tell = tell; // called with "saving", "saved", "waiting" and why, or a Refusal
    this.tries = 0;
    addEventListener("online", () => this.now());
    addEventListener("pagehide", () => this.newest && this.last());
  }

  put(body) {
    this.newest = body;
    this.tell("saving");
    this.soon(SAVE_MS);
  }

  /** Sends nothing more until `drop` or `release`, because all of it is being submitted. */
  async hold() {
    this.held = true;
    await this.busy;
  }

  /** Forgets what has not been sent: it has been submitted. */
  drop() {
    this.newest = null;
    this.held = false;
  }

  /** Sends it after all: it could not be submitted. */
  release() {
    this.held = false;
    this.now();
  }

  soon(delay) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.now(), delay);
  }

  async now() {
    if (!this.newest || this.busy || this.held) return this.busy;
    const body = this.newest;
    this.busy = call(this.base, "save", body).then(() => {
      this.tries = 0;
      if (this.newest === body) {
        this.newest = null;
        this.tell("saved");
      }
    }, (error) => {
      if (error instanceof Refusal) {
        if (this.newest === body) this.newest = null;
        this.tell(error);
      } else {
        this.tell("waiting", error);
        this.soon(RETRY_MS[Math.min(this.tries++, RETRY_MS.length - 1)]);
      }
    });
    await this.busy;
    this.busy = null;
    if (this.newest && this.newest !== body) this.now();
  }

  /** With the page that closes. */
  last() {
    call(this.base, "save", this.newest, { keepalive: true }).catch(() => null);
  }
}

/** Seconds of work: what lies between two signs of life counts, unless it is too long. */
export class Watch {
  static IDLE_MS = 60000;

  constructor() {
    this.seconds = 0;
    for (const name of ["pointermove", "pointerdown", "keydown", "wheel", "touchstart"]) {
      addEventListener(name, () => this.alive(), { passive: true, capture: true });
    }
    document.addEventListener("visibilitychange", () => document.hidden ? this.alive() : (this.last = performance.now()));
  }

  begin(seconds) {
    this.seconds = seconds;
    this.last = performance.now();
  }

  alive() {
    const now = performance.now(), passed = now - this.last;
    if (!document.hidden || passed < Watch.IDLE_MS) this.seconds += Math.min(passed, Watch.IDLE_MS) / 1000;
    this.last = now;
  }
}
