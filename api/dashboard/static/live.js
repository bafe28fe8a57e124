// @ts-check

import { offerCopying } from "./copy.js";

/**
 * Keep the regions of a page up to date, where it says from where.
 * @param {Document} page
 */
export function follow(page) {
  const sign = page.querySelector("[data-live]");
  if (!(sign instanceof HTMLElement) || !sign.dataset.live) return;
  const source = new EventSource(sign.dataset.live);
  source.addEventListener("open", () => show(sign, "on", "live"));
  source.addEventListener("error", () => show(sign, "lost", "connecting again …"));
  source.addEventListener("regions", (event) => {
    const regions = /** @type {Record<string, string>} */ (JSON.parse(event.data));
    for (const [name, markup] of Object.entries(regions)) swap(page, name, markup);
  });
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
 * Put new markup of ours in place; what is open stays open, and what has the focus keeps it.
 * @param {Document} page
 * @param {string} name
 * @param {string} markup
 */
function swap(page, name, markup) {
  const region = page.querySelector(`[data-region="${name}"]`);
  if (!region) return;
  const open = [...region.querySelectorAll("details")].map((details) => details.open);
  const focused = region.contains(page.activeElement) ? page.activeElement?.getAttribute("href") : null;
  region.innerHTML = markup;
  region.querySelectorAll("details").forEach((details, at) => { details.open = open[at] ?? false; });
  offerCopying(region);
  if (focused) {
    const again = [...region.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused);
    again?.focus();
  }
}
