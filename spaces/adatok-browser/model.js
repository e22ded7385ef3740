// The exported model, opened by onnxruntime-web.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";

ort.env.wasm.wasmPaths = { wasm: new URL("./runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.wasm.numThreads = 1; // more need headers that not every host of static pages sends

const FOLDER = new URL("./model/", import.meta.url);

/** Fetches everything and says how far it is, in 0..1. */
export async function loadModel(onProgress) {
  const [config, processor, report] = await Promise.all(
    ["config.json", "preprocessor_config.json", "export.json"].map((name) => fetchFile(name).then((r) => r.json())),
  );
  const names = ["onnx/encoder_model.onnx", "onnx/decoder_model.onnx"];
  const total = names.reduce((sum, name) => sum + report.bytes[name], 0);
  let loaded = 0;
  const count = (bytes) => onProgress((loaded += bytes) / total);
  const files = await Promise.all(names.map((name) => fetchBytes(name, count)));
  const sessions = [];
  for (const file of files) sessions.push(await ort.InferenceSession.create(file, { executionProviders: ["wasm"] }));
  return new AdaTok(config, processor, ...sessions);
}

class AdaTok {
  constructor(config, processor, encoder, decoder) {
    Object.assign(this, { config, processor, encoder, decoder });
  }

  /** All codes of a picture, what the policy thinks of each candidate budget, and which one it chooses. */
  async encode(pixelValues) {
    const { image_size: size, budgets, num_latent_tokens: limit } = this.config;
    const { image_codes, budget_logits } = await this.encoder.run({
      pixel_values: new ort.Tensor("float32", pixelValues, [1, 3, size, size]),
    });
    const scores = Array.from(budget_logits.data, (logit, i) => logit - (this.config.cost_bias * budgets[i]) / limit);
    const largest = Math.max(...scores);
    const shares = scores.map((score) => Math.exp(score - largest));
    const total = shares.reduce((sum, share) => sum + share, 0);
    const isTrained = this.config.is_policy_trained;
    return {
      codes: image_codes.data,
      policy: isTrained ? shares.map((share) => share / total) : null,
      budget: isTrained ? budgets[scores.indexOf(largest)] : limit,
    };
  }

  /** Pixel values of the first `budget` codes. */
  async decode(codes, budget) {
    const { pixel_values } = await this.decoder.run({
      image_codes: new ort.Tensor("int64", codes, [1, codes.length]),
      budgets: new ort.Tensor("int64", BigInt64Array.of(BigInt(budget)), [1]),
    });
    return pixel_values.data;
  }

  /** Bits of a picture at a budget, the index of the budget included. */
  countBits(budget) {
    const { budgets, num_latent_tokens: limit, codebook_size: size } = this.config;
    const choices = budgets.includes(budget) ? budgets.length : limit;
    return budget * Math.log2(size) + Math.log2(choices);
  }
}

async function fetchFile(name) {
  const response = await fetch(new URL(name, FOLDER));
  if (!response.ok) throw new Error(`model/${name} could not be fetched (${response.status})`);
  return response;
}

async function fetchBytes(name, count) {
  const response = await fetchFile(name);
  const chunks = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    count(value.length);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}
