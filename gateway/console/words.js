// Numbers and times as people read them, and elements with text in them.

const whole = new Intl.NumberFormat("en");

export function number(value) {
  return whole.format(Math.round(value));
}

/** At most four characters or so: 950, 1.2k, 34k, 5.6M. */
export function compact(value) {
  if (value < 10 && !Number.isInteger(value)) return value.toFixed(1).replace(/\.0$/, "");
  for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= unit) return `${(value / unit).toFixed(value < 10 * unit ? 1 : 0).replace(/\.0$/, "")}${name}`;
  }
  return String(Math.round(value));
}

export function bytes(value) {
  for (const [unit, name] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (value >= unit) return `${(value / unit).toFixed(value < 10 * unit ? 1 : 0)} ${name}`;
  }
  return `${value} B`;
}

export function microseconds(us) {
  if (us < 1_000) return `${Math.round(us)} µs`;
  if (us < 1_000_000) return `${(us / 1_000).toFixed(us < 10_000 ? 1 : 0)} ms`;
  return `${(us / 1_000_000).toFixed(1)} s`;
}

export function duration(seconds) {
  const parts = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([unit]) => seconds >= unit);
  if (first === -1) return "0 s";
  const words = [];
  let rest = seconds;
  for (const [unit, name] of parts.slice(first, first + 2)) {
    if (rest >= unit) words.push(`${Math.floor(rest / unit)} ${name}`);
    rest %= unit;
  }
  return words.join(" ");
}

/** An element; children that are `null`, `false` or "" are left out. Text stays text. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child === 0 || child));
  return element;
}
