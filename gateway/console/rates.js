// Rates out of counts: what one status and the next have between them, for as long as the charts show.

/** Seconds that charts show. */
export const SECONDS = 120;

export class Rates {
  #before = new Map();
  #history = new Map();
  #at = null;

  /** Takes the counts (name → number) of this moment, `at` in milliseconds. */
  take(counts, at) {
    const seconds = this.#at === null ? 0 : (at - this.#at) / 1_000;
    this.#at = at;
    const before = this.#before;
    this.#before = counts;
    for (const name of this.#history.keys()) if (!counts.has(name)) this.#history.delete(name);
    for (const [name, count] of counts) {
      const history = this.#history.get(name) ?? [];
      this.#history.set(name, history);
      // A count that fell is that of a server that began anew.
      const grown = before.has(name) ? Math.max(0, count - before.get(name)) : 0;
      if (seconds > 0) history.push(grown / seconds);
      if (history.length > SECONDS) history.shift();
    }
  }

  /** Rates, oldest first. */
  history(name) {
    return this.#history.get(name) ?? [];
  }

  /** The rate of the last three seconds: steady enough to read. */
  now(name) {
    const last = this.history(name).slice(-3);
    return last.length === 0 ? 0 : last.reduce((sum, rate) => sum + rate, 0) / last.length;
  }
}
