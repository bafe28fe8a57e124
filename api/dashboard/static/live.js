// @ts-check

import { offerCopying } from "./copy.js";

const LOST_AFTER_MS = 3000; // the server ends each stream after a while, and the browser comes back within 2 s
const AGAIN_AFTER_MS = 5000; // a proxy's error page has the browser give up, so we try again
const REFRESH_AFTER_S = [1, 1, 2, 3, 5, 8]; // most attempts take less than a second
const LONGEST_PRESS_MS = 5000; // a release outside of the window, or in a menu, may not be reported

/**
 * Keep the regions of a page up to date, where it says from where.
 * @param {Document} page
 */
export function follow(page) {
  const sign = page.querySelector("[data-live]");
  if (!(sign instanceof HTMLElement) || !sign.dataset.live) return;
  watchPresses(page);
  connect(page, sign, sign.dataset.live);
}

/**
 * Load a page again for a while, where it says that something of it is under way.
 * @param {Document} page
 */
export async function refresh(page) {
  if (!page.querySelector("[data-refresh]")) return;
  watchPresses(page);
  for (const seconds of REFRESH_AFTER_S) {
    await new Promise((done) => setTimeout(done, seconds * 1000));
    const response = await fetch(page.location.href).catch(() => null);
    if (!response?.ok || response.redirected) continue;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html").querySelector("[data-region=page]");
    if (!fresh) continue;
    waiting.set("page", fresh.innerHTML);
    swapAll(page);
    if (!waiting.has("page") && !fresh.hasAttribute("data-refresh")) return;
  }
}

let lostAt = 0;

/**
 * @param {Document} page
 * @param {HTMLElement} sign
 * @param {string} address
 */
function connect(page, sign, address) {
  const source = new EventSource(address);
  source.addEventListener("open", () => {
    lostAt = 0;
    show(sign, "on", "live");
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(() => connect(page, sign, address), AGAIN_AFTER_MS);
    if (lostAt) return;
    lostAt = Date.now();
    setTimeout(() => {
      if (!lostAt) return;
      const since = new Date(lostAt).toISOString().slice(11, 19);
      show(sign, "lost", `not live since ${since} UTC, connecting again …`);
    }, LOST_AFTER_MS);
  });
  source.addEventListener("regions", (event) => {
    const regions = /** @type {Record<string, string>} */ (JSON.parse(event.data));
    for (const [name, markup] of Object.entries(regions)) waiting.set(name, markup);
    swapAll(page);
  });
}

/** @type {Map<string, string>} */
const waiting = new Map(); // markup by region
let pressedUntil = 0;

/**
 * Note whether a button is held down: what was pressed must still be there when it is released, or there is no click.
 * @param {Document} page
 */
function watchPresses(page) {
  page.addEventListener("pointerdown", () => { pressedUntil = Date.now() + LONGEST_PRESS_MS; }, { capture: true });
  for (const end of ["pointerup", "pointercancel"]) {
    page.addEventListener(end, () => {
      pressedUntil = 0;
      setTimeout(() => swapAll(page)); // after the click
    }, { capture: true });
  }
}

/** @param {Document} page */
function swapAll(page) {
  if (Date.now() < pressedUntil) return;
  for (const [name, markup] of waiting) {
    const region = page.querySelector(`[data-region="${name}"]`);
    if (region && isInUse(page, region)) continue; // until the next event, or the next click
    waiting.delete(name);
    if (region) swap(page, region, markup);
  }
}

/**
 * Whether a region has an open popover, selected text, or a field that was changed: a swap would lose them.
 * @param {Document} page
 * @param {Element} region
 */
function isInUse(page, region) {
  if (region.querySelector(":popover-open")) return true;
  const selection = page.getSelection();
  if (selection && !selection.isCollapsed && selection.containsNode(region, true)) return true;
  return [...region.querySelectorAll("input, textarea, select")].some(isChanged);
}

/** @param {Element} field */
function isChanged(field) {
  if (field instanceof HTMLInputElement) {
    return field.value !== field.defaultValue || field.checked !== field.defaultChecked;
  }
  if (field instanceof HTMLTextAreaElement) return field.value !== field.defaultValue;
  if (!(field instanceof HTMLSelectElement)) return false;
  const byDefault = [...field.options].findLastIndex((option) => option.defaultSelected);
  return field.selectedIndex !== Math.max(byDefault, 0);
}

/**
 * @param {HTMLElement} sign
 * @param {string} state
 * @param {string} words
 */
function show(sign, state, words) {
  sign.dataset.state = state;
  const text = sign.querySelector("span");
  if (text && text.textContent !== words) text.textContent = words;
}

/**
 * Replace a region with new markup from our server; what is open stays open, and what has the focus keeps it.
 * @param {Document} page
 * @param {Element} region
 * @param {string} markup
 */
function swap(page, region, markup) {
  const open = [...region.querySelectorAll("details")].map((details) => details.open);
  const focused = region.contains(page.activeElement) ? page.activeElement : null;
  region.innerHTML = markup;
  const details = region.querySelectorAll("details");
  if (details.length === open.length) details.forEach((each, at) => { each.open = open[at] ?? false; });
  offerCopying(region);
  if (focused) {
    const again = [...region.querySelectorAll(focused.tagName)].find((each) => nameOf(each) === nameOf(focused));
    if (again instanceof HTMLElement) again.focus();
  }
}

/** @param {Element} element */
function nameOf(element) {
  return element.getAttribute("href") ?? element.textContent;
}
