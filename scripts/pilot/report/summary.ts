import { pathToFileURL } from "node:url";
import { atMost, readings } from "./buffer-chart.js";
import type { PilotReport } from "./report.js";

/** The table that ends a run, at most 80 columns wide. */
export function summary(report: PilotReport, jsonFile: string, htmlFile: string): string {
  const { contributions: c } = report;
  const rows: [string, string][] = [
    ["result", report.passed ? "passed" : "FAILED"],
    ...(report.finalAccuracy === undefined
      ? []
      : [
          [
            "final accuracy",
            `${(report.finalAccuracy * 100).toFixed(2)} % of 10,000 test images`,
          ] as [string, string],
        ]),
    ...anomalyRows(report),
    [
      "rounds",
      `${report.rounds.length} (${report.rounds.filter(({ model }) => model !== undefined).length} models)`,
    ],
    ["sites / devices", `${report.sites.length} / ${report.devices}`],
    ["contributions", `${c.receipted} receipted: ${c.inModel} in a model, ${c.late} of them late;`],
    [
      "",
      `${c.inEvaluation} in an evaluation, ${c.expired} expired; ${c.duplicatesDropped} duplicates dropped`,
    ],
    ["lost / counted twice", `${report.missing.length} / ${report.doubled.length}`],
    [
      "exact to the bit",
      `${report.exact ? "yes" : "NO"} (${report.sumsChecked} sums of ${report.modelsChecked} models, by an independent oracle)`,
    ],
    ...report.faults.map((fault): [string, string] => [
      fault.kind === "cut" ? "uplink cut" : "gateway killed",
      faultText(fault),
    ]),
    ...outageRows(report),
    ["wall time", `${report.wallSeconds.toFixed(1)} s`],
  ];
  const lines = [
    "",
    ...rows.map(([name, value]) => `  ${name.padEnd(22)}${value}`),
    ...report.failures.map((text) => `  ! ${text}`),
    "",
    `  ${jsonFile}`,
    `  ${pathToFileURL(htmlFile).href}`,
    "",
  ];
  return `${lines.join("\n")}\n`;
}

/** What an outage asked for came to, and what waited at the site that it cut off. */
function outageRows({ outage, faults, buffers }: PilotReport): [string, string][] {
  const cut = faults.find(({ kind }) => kind === "cut");
  if (outage === undefined || cut === undefined) return [];
  const { asked, scale } = outage;
  const waited = buffers.filter(({ site }) => site === cut.site).flatMap(readings);
  return [
    [
      "outage",
      `${asked}, ${scale === 1 ? "in real time" : `${Number(scale.toPrecision(3))} times faster; nothing else is scaled`}`,
    ],
    ...atMost(waited).map((text, i): [string, string] => [i === 0 ? "waited there" : "", text]),
  ];
}

function faultText(fault: PilotReport["faults"][number]): string {
  const seconds = (ms: number) => (ms / 1000).toFixed(1);
  const until = fault.toMs === undefined ? "the end" : `${seconds(fault.toMs)} s`;
  const pid = fault.pid === undefined ? "" : ` (pid ${fault.pid})`;
  return `${fault.site}, ${seconds(fault.fromMs)} to ${until}${pid}`;
}

function anomalyRows({ anomaly }: PilotReport): [string, string][] {
  if (anomaly === undefined) return [];
  const rate = (share: number) => `${(share * 100).toFixed(1)} %`;
  const shown = [
    ["federated", anomaly.federated],
    ["local only", anomaly.localOnly],
  ] as const;
  const quality = shown.flatMap(([name, detection]): [string, string][] =>
    detection === undefined
      ? []
      : [
          [
            name,
            `F1 ${detection.f1.toFixed(3)}, false alarms ${rate(detection.falseAlarmRate)}, missed ${rate(detection.missedAlarmRate)}`,
          ],
        ],
  );
  const alarms = anomaly.devices.reduce((sum, device) => sum + device.alarms, 0);
  const rows = anomaly.devices.reduce((sum, device) => sum + device.rows, 0);
  return [
    ...quality,
    ...(quality.length > 0
      ? []
      : [["quality", "not known: no log has labels"] as [string, string]]),
    ["alarms", `${alarms} of ${rows} test rows`],
    ["sensors", cut(anomaly.sensors.join(", "))],
    ["other columns", cut(anomaly.unusedColumns.join(", ") || "none")],
  ];
}

/** So that a line fits 80 columns. */
function cut(text: string): string {
  return text.length <= 54 ? text : `${text.slice(0, 51)}...`;
}
