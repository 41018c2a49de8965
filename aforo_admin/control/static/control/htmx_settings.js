// The content security policy refuses styles that a script writes into the page.
htmx.config.includeIndicatorStyles = false;
htmx.config.allowEval = false;
