// @ts-check

/**
 * A box that ticks all of a page, and buttons that say how many are ticked.
 * @param {ParentNode} root
 */
export function offerSelecting(root) {
  const all = root.querySelector("input[data-select-all]");
  if (!(all instanceof HTMLInputElement)) return;
  const boxes = /** @type {HTMLInputElement[]} */ ([...root.querySelectorAll("input[data-select]")]);
  const buttons = /** @type {HTMLButtonElement[]} */ ([...root.querySelectorAll("button[data-selected]")]);
  all.hidden = false;
  const refresh = () => {
    const count = boxes.filter((box) => box.checked).length;
    all.checked = count > 0 && count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
    for (const button of buttons) {
      button.disabled = count === 0;
      button.textContent = `${button.dataset.selected} ${count || ""} selected`.replace("  ", " ");
    }
  };
  all.addEventListener("change", () => {
    for (const box of boxes) box.checked = all.checked;
    refresh();
  });
  for (const box of boxes) box.addEventListener("change", refresh);
  refresh();
}
