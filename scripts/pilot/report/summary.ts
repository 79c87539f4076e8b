import { pathToFileURL } from "node:url";
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
    [
      "contributions",
      `${c.receipted} receipted: ${c.inModel} in a model, ${c.inEvaluation} in an evaluation,`,
    ],
    ["", `${c.expired} expired; ${c.duplicatesDropped} duplicates dropped`],
    ["lost / counted twice", `${report.missing.length} / ${report.doubled.length}`],
    [
      "exact to the bit",
      `${report.exact ? "yes" : "NO"} (${report.modelsChecked} sums checked by an independent oracle)`,
    ],
    ...report.faults.map((fault): [string, string] => [
      fault.kind === "cut" ? "uplink cut" : "gateway killed",
      faultText(fault),
    ]),
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

function faultText(fault: PilotReport["faults"][number]): string {
  const seconds = (ms: number) => (ms / 1000).toFixed(1);
  const until = fault.toMs === undefined ? "the end" : `${seconds(fault.toMs)} s`;
  const pid = fault.pid === undefined ? "" : ` (pid ${fault.pid})`;
  return `${fault.site}, ${seconds(fault.fromMs)} to ${until}${pid}`;
}

function anomalyRows({ anomaly }: PilotReport): [string, string][] {
  if (anomaly === undefined) return [];
  const shown = [
    ["federated", anomaly.federated],
    ["local only", anomaly.localOnly],
  ] as const;
  return shown.flatMap(([name, detection]): [string, string][] =>
    detection === undefined
      ? []
      : [
          [
            name,
            `F1 ${detection.f1.toFixed(3)}, false alarms ${(detection.falseAlarmRate * 100).toFixed(1)} %, missed ${(detection.missedAlarmRate * 100).toFixed(1)} %`,
          ],
        ],
  );
}
