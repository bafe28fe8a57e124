// @ts-check

/**
 * Show the buttons next to ids, and have them copy.
 * @param {ParentNode} root
 */
export function offerCopying(root) {
  if (!navigator.clipboard) return;
  for (const button of root.querySelectorAll("button[data-copy]")) {
    if (button instanceof HTMLButtonElement) button.hidden = false;
  }
}

document.addEventListener("click", async (event) => {
  const target = event.target instanceof Element ? event.target.closest("button[data-copy]") : null;
  if (!(target instanceof HTMLButtonElement)) return;
  try {
    await navigator.clipboard.writeText(target.dataset.copy ?? "");
  } catch {
    announce("Could not copy: the browser does not allow it here");
    return;
  }
  target.classList.add("done");
  announce("Copied");
  setTimeout(() => target.classList.remove("done"), 1500);
});

/**
 * Announce a text to screen readers.
 * @param {string} text
 */
function announce(text) {
  let status = document.getElementById("announcement");
  if (!status) {
    status = document.createElement("p");
    status.id = "announcement";
    status.className = "sr";
    status.setAttribute("role", "status");
    document.body.append(status);
  }
  status.textContent = text;
}
