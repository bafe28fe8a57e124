// @ts-check

/** @type {[number, string][]} As `text.age` on the server counts. */
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/**
 * @param {Date} moment
 * @param {Date} now
 */
export function age(moment, now) {
  const seconds = (now.getTime() - moment.getTime()) / 1000;
  for (const [size, unit] of UNITS) {
    if (Math.abs(seconds) >= size) {
      const span = `${Math.floor(Math.abs(seconds) / size)} ${unit}`;
      return seconds > 0 ? `${span} ago` : `in ${span}`;
    }
  }
  return "now";
}

/**
 * Let ages grow while the page stands open.
 * @param {ParentNode} root
 */
export function keepTimes(root) {
  const refresh = () => {
    if (document.hidden) return;
    const now = new Date();
    for (const time of root.querySelectorAll("time.when")) {
      const shown = time.querySelector(".age");
      const current = age(new Date(time.getAttribute("datetime") ?? ""), now);
      if (shown && shown.textContent !== current) shown.textContent = current;
    }
  };
  refresh();
  setInterval(refresh, 1000);
  document.addEventListener("visibilitychange", refresh);
}
