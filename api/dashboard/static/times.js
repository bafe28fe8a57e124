// @ts-check

/** @type {[number, string][]} As `everhook/durations.py` on the server counts. */
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/**
 * @param {Date} moment
 * @param {Date} now
 */
export function age(moment, now) {
  const passed = (now.getTime() - moment.getTime()) / 1000;
  const seconds = Math.abs(passed);
  if (seconds < 0.5) return "now";
  const [size, unit] = UNITS.find(([each]) => seconds >= 2 * each) ?? [1, "s"];
  const span = `${Math.round(seconds / size)} ${unit}`;
  return passed > 0 ? `${span} ago` : `in ${span}`;
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
