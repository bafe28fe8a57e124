// @ts-check
// Everything here is a convenience: each page reads and acts without it.

import { offerCopying } from "./copy.js";
import { follow, refresh } from "./live.js";
import { offerSelecting } from "./select.js";
import { submitOnce } from "./submit.js";
import { keepTimes } from "./times.js";

offerCopying(document);
offerSelecting(document);
keepTimes(document);
follow(document);
refresh(document);
submitOnce(document);

for (const form of document.querySelectorAll("form[data-submit]")) {
  if (form instanceof HTMLFormElement) form.submit();
}
