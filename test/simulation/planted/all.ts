export { longTimersLost } from "./clocks.js";
export { cloudSkipsFsync, deviceKeepsAll, gatewaySkipsFsync, optimizerForgets } from "./disks.js";
export { indexSkipsSync, sequenceReused } from "./indexes.js";
export {
  deletedBeforeReceipt,
  latePartialDropped,
  receiptedTooEarly,
  sendThrows,
  unseededRandom,
} from "./links.js";
export { bufferForgotten, lateExpires, sitesForgotten } from "./rules.js";
export { siteStateKeptOld, slotsForgotten } from "./sites.js";
export { countedAgain } from "./stores.js";
export { sumWraps } from "./sums.js";
