// The self-test of a policy file under Node: node selftest_node.mjs POLICY.onnx VECTORS.json
// Prints one line. Exit code 0: every case is right. 1: one is not, or a file is unreadable. 2: wrong usage.

import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web/wasm";
import { readRecord } from "./metadata.js";
import { selfTest } from "./selftest.js";

async function main([policyPath, vectorsPath]) {
  const bytes = await readFile(policyPath);
  const vectors = JSON.parse(await readFile(vectorsPath, "utf8"));
  ort.env.wasm.numThreads = 1; // a policy is too small for more
  const session = await ort.InferenceSession.create(bytes);
  const { nCases, maxDifference, failure } = await selfTest(ort, session, vectors, readRecord(bytes)?.digest);
  if (failure !== null) throw new Error(failure);
  return `ok: ${nCases} cases, largest difference ${maxDifference}`;
}

const paths = process.argv.slice(2);
if (paths.length !== 2) {
  console.error("usage: node selftest_node.mjs POLICY.onnx VECTORS.json");
  process.exitCode = 2;
} else {
  try {
    console.log(await main(paths));
  } catch (error) {
    console.log(`failed: ${error.message}`);
    process.exitCode = 1;
  }
}
