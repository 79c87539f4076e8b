// Fits y = w x + b. Yours calls TensorFlow.js, ONNX or anything else.
export const createTrainer = ({ xs, ys }) => ({
  async train({ tensors }, { training }) {
    let [w, b] = ["w", "b"].map((name) => tensors.get(name).values[0]);
    for (let epoch = 0; epoch < training.epochs; epoch++)
      for (const [i, x] of xs.entries()) {
        const step = training.learningRate * (w * x + b - ys[i]);
        [w, b] = [w - step * x, b - step];
      }
    const weights = new Map([
      ["w", Float32Array.of(w)],
      ["b", Float32Array.of(b)],
    ]);
    return { weights, samples: xs.length, metrics: {} };
  },
  async evaluate(model) {
    const loss = xs.reduce((sum, x, i) => sum + (this.predict(model, x) - ys[i]) ** 2, 0);
    return { samples: xs.length, metrics: { loss: loss / xs.length } };
  },
  predict: ({ tensors }, x) => tensors.get("w").values[0] * x + tensors.get("b").values[0],
});
