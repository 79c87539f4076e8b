import { createHash } from "node:crypto";

/** Colours have a contrast of at least 4.5 to 1 against what they stand on (WCAG 2.2, 1.4.3), in both themes. */
const style = `
:root {
  color-scheme: light dark;
  --page: #f3f5f8; --card: #ffffff; --edge: #ccd3dd; --text: #131820; --quiet: #495364;
  --good: #0a6636; --warn: #844700; --bad: #a3141e; --track: #dfe4eb; --bar: #1d5fbf;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1217; --card: #181e26; --edge: #303b49; --text: #f0f3f8; --quiet: #aeb9c9;
    --good: #62d691; --warn: #ffb65c; --bad: #ff8f87; --track: #2b3440; --bar: #7db1ff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 1.25rem; background: var(--page); color: var(--text);
  font: 1.25rem/1.4 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; max-width: 75rem; margin-inline: auto;
}
header { display: flex; flex-wrap: wrap; gap: 0 1.25rem; align-items: baseline; }
h1 { font-size: 1.9rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; font-weight: 600; color: var(--quiet); margin: 0 0 .25rem; }
.quiet { color: var(--quiet); }
.link { font-size: 1.6rem; font-weight: 600; margin: .9rem 0 1rem; display: flex; gap: .7rem; align-items: center; flex-wrap: wrap; }
.mark { width: 1.2em; height: 1.2em; flex: none; }
.link .quiet { font-size: 1.15rem; font-weight: 400; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18.5rem), 1fr)); gap: .9rem; }
.card, section { background: var(--card); border: 1px solid var(--edge); border-radius: .7rem; padding: .85rem 1.1rem; }
section { margin-top: .9rem; overflow-x: auto; }
.big { font-size: 2.3rem; font-weight: 650; line-height: 1.15; margin: 0; overflow-wrap: anywhere; }
.card p { margin: .15rem 0 0; }
.track { height: .8rem; border-radius: .4rem; background: var(--track); margin: .5rem 0 .35rem; overflow: hidden; }
.track svg { display: block; color: var(--bar); }
table { border-collapse: collapse; min-width: min(100%, 38rem); }
th { text-align: left; font-weight: 600; color: var(--quiet); font-size: 1.05rem; }
th, td { padding: .3rem 1rem .3rem 0; white-space: nowrap; }
.number { text-align: right; }
th:last-child, td:last-child { padding-right: 0; }
#lost { display: none; margin: 0 0 1rem; padding: .85rem 1.1rem; border: 3px solid var(--bad); border-radius: .7rem;
  font-size: 1.4rem; font-weight: 600; color: var(--bad); background: var(--card); }
.unreachable #lost { display: block; }
.unreachable main { filter: grayscale(1); }
footer { margin: 1rem 0 0; font-size: 1.05rem; color: var(--quiet); overflow-wrap: anywhere; }
`;

/** Puts the newest `main` in place of the one shown, and says so when none comes. */
const script = `
const everyMs = 2000, patienceMs = 6000;
let heardMs = Date.now();
async function update() {
  try {
    const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(patienceMs) });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    document.title = page.title;
    heardMs = Date.now();
    document.body.className = "";
  } catch {
    const seconds = Math.round((Date.now() - heardMs) / 1000);
    const age = seconds < 120 ? seconds + " s" : Math.round(seconds / 60) + " min";
    document.getElementById("age").textContent = age;
    document.body.className = "unreachable";
  }
  setTimeout(update, everyMs);
}
setTimeout(update, everyMs);
`;

const hashOf = (text: string): string =>
  `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

/** Lets the page load nothing but itself, and nobody frame it (CSP level 3). */
export const pagePolicy = [
  "default-src 'none'",
  "connect-src 'self'",
  `style-src ${hashOf(style)}`,
  `script-src ${hashOf(script)}`,
  "img-src data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** A whole document. @param title escaped @param main what stands in `main`, as HTML */
export function framePage(title: string, main: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>${title}</title>
<link rel="icon" href="data:,">
<noscript><meta http-equiv="refresh" content="5"></noscript>
<style>${style}</style>
</head>
<body>
<p id="lost" role="alert">This page cannot reach the gateway. What it shows is <span id="age"></span> old.</p>
<main>${main}</main>
<script>${script}</script>
</body>
</html>
`;
}
