import { bufferCharts } from "./buffer-chart.js";
import type { PilotReport, RoundEntry } from "./report.js";
import { escaped, faultBlock, LEFT, RIGHT, timeAxis, timeScale, WIDTH } from "./svg.js";

/** The report as one page that needs nothing else: curve, outage timeline, tables; light and dark. */
export function reportHtml(report: PilotReport): string {
  const title = report.mode === "mnist" ? "Pilot: handwritten digits" : "Pilot: sensor logs";
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<style>${style}</style>
<main>
<h1>${title}</h1>
<p class="lead">${escaped(report.startedAt)} &middot; ${report.wallSeconds.toFixed(1)} s &middot; seed ${report.seed} &middot; <b class="${report.passed ? "good" : "bad"}">${report.passed ? "passed" : "failed"}</b></p>
${report.failures.length > 0 ? `<ul class="bad">${report.failures.map((text) => `<li>${escaped(text)}</li>`).join("")}</ul>` : ""}
${figures(report)}
${report.mode === "mnist" ? section("Accuracy by round", accuracyCurve(report.rounds)) : anomalySection(report)}
${section("Sites and outages", timeline(report))}
${section("What waited at each site", bufferCharts(report))}
${section("Contributions", contributionTable(report))}
${section("Who holds what", assignmentTable(report))}
${section("Rounds", roundTable(report))}
${section("Processes", processTable(report))}
<p class="note">${escaped(report.data)}</p>
</main>
</html>
`;
}

const style = `
:root{color-scheme:light dark;--ink:#1d2733;--soft:#5a6776;--line:#d5dce4;--paper:#fff;--panel:#f5f7fa;--accent:#0b6bcb;--good:#1a7f4b;--bad:#b3261e;--cut:#d9822b}
@media (prefers-color-scheme:dark){:root{--ink:#e6ebf1;--soft:#9aa7b5;--line:#334050;--paper:#131a22;--panel:#1b242e;--accent:#62aefc;--good:#5cc98f;--bad:#ff8a80;--cut:#f0a95b}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1.25rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2.25rem 0 .75rem}
.lead,.note{color:var(--soft);margin:.25rem 0 1.25rem}.note{font-size:.85rem;margin-top:2rem}
.good{color:var(--good)}.bad{color:var(--bad)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(7.5rem,1fr));gap:.75rem}
.figures div{background:var(--panel);border-radius:.5rem;padding:.75rem 1rem}
.figures b{display:block;font-size:1.5rem;font-variant-numeric:tabular-nums}.figures span{color:var(--soft);font-size:.85rem}
svg{display:block;width:100%;height:auto;background:var(--panel);border-radius:.5rem}
svg text{fill:var(--soft);font:12px system-ui,sans-serif}svg .name{fill:var(--ink);font-weight:500}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .75rem .35rem 0;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:500}`;

function section(title: string, body: string): string {
  return `<h2>${title}</h2>\n${body}`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (row: readonly string[], tag: string) =>
    row.map((text) => `<${tag}>${escaped(text)}</${tag}>`).join("");
  return `<div class="scroll"><table><thead><tr>${cells(head, "th")}</tr></thead><tbody>${rows
    .map((row) => `<tr>${cells(row, "td")}</tr>`)
    .join("")}</tbody></table></div>`;
}

function percent(value: number | undefined, digits = 1): string {
  return value === undefined ? "" : `${(value * 100).toFixed(digits)} %`;
}

function figures(report: PilotReport): string {
  const federated = report.anomaly?.federated;
  const shown: [string, string][] = [
    ...(report.finalAccuracy === undefined
      ? []
      : [[percent(report.finalAccuracy, 2), "final accuracy"] as [string, string]]),
    ...(federated === undefined
      ? []
      : [[federated.f1.toFixed(3), "F1, federated"] as [string, string]]),
    [String(report.rounds.filter((round) => round.model !== undefined).length), "models published"],
    [`${report.sites.length} / ${report.devices}`, "sites / devices"],
    [String(report.contributions.receipted), "contributions receipted"],
    [report.exact ? "yes" : "NO", `sums exact to the bit (${report.sumsChecked} checked)`],
    [String(report.missing.length + report.doubled.length), "lost or counted twice"],
  ];
  return `<div class="figures">${shown.map(([value, name]) => `<div><b>${escaped(value)}</b><span>${escaped(name)}</span></div>`).join("")}</div>`;
}

function accuracyCurve(rounds: readonly RoundEntry[]): string {
  const points = rounds.filter((round) => round.accuracy !== undefined);
  if (points.length === 0) return "<p>No model was published.</p>";
  const height = 300;
  const top = 20;
  const bottom = 40;
  const x = (i: number) => LEFT + (i * (WIDTH - LEFT - RIGHT)) / Math.max(1, points.length - 1);
  const y = (value: number) => top + (1 - value) * (height - top - bottom);
  const grid = [0, 0.25, 0.5, 0.75, 0.93, 1]
    .map(
      (value) =>
        `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(value)}" y2="${y(value)}" stroke="${value === 0.93 ? "var(--good)" : "var(--line)"}" ${value === 0.93 ? 'stroke-dasharray="4 4"' : ""}/><text x="${LEFT - 10}" y="${y(value) + 4}" text-anchor="end">${value === 0.93 ? "bar 93 %" : percent(value, 0)}</text>`,
    )
    .join("");
  const line = points
    .map((round, i) => `${x(i).toFixed(1)},${y(round.accuracy ?? 0).toFixed(1)}`)
    .join(" ");
  const dots = points
    .map(
      (round, i) =>
        `<circle cx="${x(i).toFixed(1)}" cy="${y(round.accuracy ?? 0).toFixed(1)}" r="3.5" fill="var(--accent)"><title>${escaped(round.round)}: ${percent(round.accuracy, 2)}, ${round.contributors} contributors</title></circle>`,
    )
    .join("");
  const step = Math.max(1, Math.ceil(points.length / 12));
  const ticks = points
    .map((round, i) =>
      i % step === 0
        ? `<text x="${x(i)}" y="${height - 14}" text-anchor="middle">${escaped(round.round.slice(round.round.lastIndexOf(".") + 1))}</text>`
        : "",
    )
    .join("");
  return `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="Accuracy by round">${grid}<polyline points="${line}" fill="none" stroke="var(--accent)" stroke-width="2"/>${dots}${ticks}</svg>`;
}

/** One lane a site: ticks where its contributions entered a model, blocks where it was out. */
function timeline(report: PilotReport): string {
  const lane = 44;
  const height = report.sites.length * lane + 34;
  const endMs = Math.max(1, report.wallSeconds * 1000);
  const x = timeScale(endMs);
  const lanes = report.sites.map((site, i) => {
    const y = 14 + i * lane;
    const marks = report.rounds
      .filter((round) => round.endedMs !== undefined && round.sites.includes(site.site))
      .map(
        (round) =>
          `<line x1="${x(round.endedMs ?? 0)}" x2="${x(round.endedMs ?? 0)}" y1="${y + 4}" y2="${y + 24}" stroke="var(--accent)" stroke-width="2"><title>${escaped(round.round)}</title></line>`,
      )
      .join("");
    const faults = report.faults
      .filter((fault) => fault.site === site.site)
      .map(
        (fault) =>
          `${faultBlock(fault, endMs, y, 28)}<text x="${x(fault.fromMs) + 4}" y="${y + 40}">${fault.kind === "kill" ? "killed" : "uplink cut"}</text>`,
      )
      .join("");
    return `<text x="${LEFT - 10}" y="${y + 18}" text-anchor="end">${escaped(site.site)}</text><line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y + 14}" y2="${y + 14}" stroke="var(--line)"/>${faults}${marks}`;
  });
  return `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="Timeline of sites and outages">${lanes.join("")}${timeAxis(endMs, height - 8)}</svg><p class="note">A blue tick: the site's contributions entered a model. A block: it was cut off or killed.</p>`;
}

function contributionTable({ contributions: c }: PilotReport): string {
  return table(
    [
      "receipted",
      "in a model",
      "of these late",
      "in an evaluation",
      "expired",
      "duplicates dropped",
    ],
    [[c.receipted, c.inModel, c.late, c.inEvaluation, c.expired, c.duplicatesDropped].map(String)],
  );
}

function assignmentTable(report: PilotReport): string {
  const rows = report.sites.flatMap((site) =>
    site.devices.map((device) => [
      site.site,
      device.device,
      device.holds,
      String(device.samples),
      site.lacks?.join(" ") ?? "",
    ]),
  );
  return table(["site", "device", "holds", "samples", "the site lacks"], rows);
}

function roundTable(report: PilotReport): string {
  const rows = report.rounds.map((round) => [
    round.round,
    round.state,
    round.late === 0 ? String(round.contributors) : `${round.contributors} (${round.late} late)`,
    round.sites.join(" "),
    percent(round.accuracy, 2),
    Object.entries(round.federated ?? {})
      .map(([name, value]) => `${name} ${value.toFixed(4)}`)
      .join(", "),
    round.endedMs === undefined ? "" : `${((round.endedMs - round.startedMs) / 1000).toFixed(1)} s`,
  ]);
  return table(
    ["round", "state", "contributors", "sites", "accuracy", "federated evaluation", "took"],
    rows,
  );
}

function processTable(report: PilotReport): string {
  const rows = report.processes.map((process) => [
    process.name,
    String(process.pid),
    process.port === undefined ? "" : String(process.port),
    `${(process.startedMs / 1000).toFixed(1)} s`,
    process.endedMs === undefined ? "" : `${(process.endedMs / 1000).toFixed(1)} s`,
    process.signal ??
      (process.exitCode === undefined || process.exitCode === null ? "" : String(process.exitCode)),
  ]);
  return table(["process", "pid", "port", "started", "ended", "exit"], rows);
}

function anomalySection(report: PilotReport): string {
  const anomaly = report.anomaly;
  if (anomaly === undefined) return "";
  const compare = [
    ["federated", anomaly.federated] as const,
    ["local only", anomaly.localOnly] as const,
  ].flatMap(([name, d]) =>
    d === undefined
      ? []
      : [[name, d.f1.toFixed(3), percent(d.falseAlarmRate), percent(d.missedAlarmRate)]],
  );
  const devices = anomaly.devices.map((d) => [
    d.device,
    String(d.rows),
    d.federated?.f1.toFixed(3) ?? "",
    d.localOnly?.f1.toFixed(3) ?? "",
    String(d.alarms),
  ]);
  const unlabelled =
    compare.length === 0
      ? "<p>No log has labels: alarms are counted, quality is not known.</p>"
      : "";
  return [
    section(
      "Detection",
      unlabelled + table(["model", "F1", "false alarms", "missed alarms"], compare),
    ),
    section(
      "By device",
      table(["device", "test rows", "F1 federated", "F1 local only", "alarms"], devices),
    ),
    `<p class="note">Sensors: ${escaped(anomaly.sensors.join(", "))}. Not used: ${escaped(anomaly.unusedColumns.join(", ") || "none")}. ${escaped(anomaly.thresholdRule)}</p>`,
  ].join("\n");
}
