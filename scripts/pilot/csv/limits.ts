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
  /** Bytes read of a file to see its header. */
  headBytes: 256 * 1024,
} as const;
