/* Puts a line that a field may begin with into it: behind what is there, to be edited. Without this
   script the lines are not shown. */
"use strict";

for (const row of document.querySelectorAll(".starts")) {
    row.hidden = false;
}

document.addEventListener("click", (event) => {
    const line = event.target.closest(".starts button")?.dataset.line;
    if (!line) {
        return;
    }
    const field = document.getElementById(event.target.closest(".starts").dataset.of);
    const before = field.value.trimEnd();
    field.value = before ? `${before}\n${line}` : line;
    // What somebody is likely to change: the figure.
    const from = field.value.length - line.length + line.lastIndexOf("=") + 1;
    field.focus();
    field.setSelectionRange(from, field.value.length);
});
