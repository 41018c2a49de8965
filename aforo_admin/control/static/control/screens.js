/* Renews the figures of a page: asks for its part again while somebody looks. Without it, the page
   is as it was loaded. */
"use strict";

(() => {
    const live = document.getElementById("live");
    const every = Number(live?.dataset.everyS) * 1000;
    if (!every) {
        return;
    }

    const told = document.createElement("p");
    told.className = "renewing";
    told.setAttribute("role", "status");
    told.setAttribute("aria-live", "polite");
    live.after(told);
    let timer = 0;

    // Whoever reads, selects or confirms something there must not lose it.
    const isInUse = () =>
        live.contains(document.activeElement) ||
        live.querySelector("details.confirm[open]") !== null ||
        !document.getSelection().isCollapsed;

    const say = (text) => {
        if (told.textContent !== text) {
            told.textContent = text;
        }
    };

    const renew = async () => {
        if (document.hidden || isInUse()) {
            return;
        }
        try {
            const answer = await fetch(location.href, {
                headers: {"X-Aforo-Fragment": "1"},
                cache: "no-store",
                redirect: "error",
            });
            if (!answer.ok) {
                throw new Error(String(answer.status));
            }
            const text = await answer.text();
            if (!isInUse()) {
                live.innerHTML = text;
            }
            say("");
        } catch {
            say("These figures are no longer renewed: the server does not answer, or you were signed out. Load the page again.");
        }
    };

    const next = () => {
        clearTimeout(timer);
        if (!document.hidden) {
            timer = setTimeout(() => renew().finally(next), every);
        }
    };

    document.addEventListener("visibilitychange", () => {
        if (!document.hidden) {
            renew();
        }
        next();
    });
    next();
})();
