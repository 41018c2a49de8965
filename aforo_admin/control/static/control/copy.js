/* Copies what is shown once, for who asks by mouse or key. Without this script there is no button,
   and a click on the text selects all of it. */
"use strict";

(() => {
    const select = (text) => {
        const range = document.createRange();
        range.selectNodeContents(text);
        const selection = document.getSelection();
        selection.removeAllRanges();
        selection.addRange(range);
    };

    // Browsers have a clipboard on https and on this machine alone; elsewhere they copy a selection.
    const copy = async (text) => {
        try {
            await navigator.clipboard.writeText(text.textContent);
            return true;
        } catch {
            select(text);
            return document.execCommand("copy");
        }
    };

    for (const button of document.querySelectorAll("button[data-copies]")) {
        const text = document.getElementById(button.dataset.copies);
        const told = document.getElementById(button.dataset.tells);
        button.hidden = false;
        button.addEventListener("click", async () => {
            told.textContent = ""; // So that it is told again to who listens.
            const copied = await copy(text);
            told.textContent = copied ? "Copied" : "Not copied: it is selected, copy it by hand";
        });
    }
})();
