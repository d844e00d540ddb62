// Starts the page.

import { status } from "./api.js";
import { start } from "./chat.js";
import { server } from "./numbers.js";

const EVERY_MS = 500;

for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    document.body.dataset.view = button.dataset.show;
    for (const other of document.querySelectorAll("[data-show]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  });
}
start();

for (;;) {
  if (!document.hidden) server(await status().catch(() => null));
  await new Promise((wake) => setTimeout(wake, EVERY_MS));
}
