/**
 * A day on which this source existed already, as milliseconds since 1970 (UTC): no clock that shows
 * an earlier time can be right. Written by hand with each release, so that two builds of one source
 * are equal to the byte; being some days old costs nothing but those days.
 */
export const buildDateMs = Date.UTC(2026, 10, 1);
