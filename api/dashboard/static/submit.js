// @ts-check

const LONGEST_SUBMISSION_MS = 10_000; // one that was stopped is not reported, and the form can be sent again

/**
 * Send a form once where its button is clicked twice: two requests create two things.
 * @param {Document} page
 */
export function submitOnce(page) {
  /** @type {WeakMap<EventTarget, number>} */
  let sentAt = new WeakMap();
  page.addEventListener("submit", (event) => {
    if (!event.target || event.defaultPrevented) return;
    if (Date.now() - (sentAt.get(event.target) ?? -Infinity) < LONGEST_SUBMISSION_MS) event.preventDefault();
    else sentAt.set(event.target, Date.now());
  });
  // A page that the browser comes back to still has the forms that were sent.
  page.defaultView?.addEventListener("pageshow", () => { sentAt = new WeakMap(); });
}
