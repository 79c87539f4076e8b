/** Bounds of the sensor logs that the pilot reads. */
export const logLimits = {
  sites: 16,
  devices: 240,
  fileBytes: 256 * 1024 * 1024,
  columns: 512,
  sensors: 64,
  rows: 1_000_000,
  /** Fewer rows cannot be split into training, calibration and test. */
  rowsMin: 50,
  /** Rows looked at to tell numbers from text. */
  sampledRows: 20,
  /** Bytes read of a file to see its header and first rows. */
  headBytes: 256 * 1024,
} as const;
