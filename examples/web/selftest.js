// Proves a policy file where it runs: what Stable-Baselines3 answered in Python must come out here too.
// It needs nothing but the `ort` object of onnxruntime, and works in a browser and in Node, for every kind of policy.

const ARRAYS = { float32: Float32Array, uint8: Uint8Array, bool: Uint8Array };

/**
 * Run every case of a file of test vectors.
 *
 * @param ort onnxruntime-web, or another onnxruntime for JavaScript
 * @param session an inference session of the policy file
 * @param vectors the content of NAME.vectors.json
 * @param digest the digest in the policy file's record
 * @returns {nCases, maxDifference, failure}: cases tried, the largest absolute difference in any output, and what was
 *   wrong first, or null
 */
export async function selfTest(ort, session, vectors, digest) {
  const result = { nCases: 0, maxDifference: 0, failure: null };
  if (vectors.format_version !== 1) return { ...result, failure: `format_version is ${vectors.format_version}, not 1` };
  if (vectors.digest !== digest) return { ...result, failure: "the test vectors were written for another file" };
  if (!vectors.cases.length) return { ...result, failure: "there are no cases" };
  for (const { inputs, outputs } of vectors.cases) {
    const feeds = {};
    for (const { name, dtype, shape } of vectors.inputs) {
      feeds[name] = new ort.Tensor(dtype, ARRAYS[dtype].from(inputs[name]), shape);
    }
    const answer = await session.run(feeds);
    for (const { name, atol, rtol } of vectors.outputs) {
      const got = Array.from(answer[name].data, Number);
      const expected = outputs[name];
      const differences = expected.map((value, i) => Math.abs(got[i] - value));
      // "Not all within" rather than "one beyond": so NaN fails too.
      const right = differences.every((difference, i) => difference <= atol[i] + rtol * Math.abs(expected[i]));
      if (got.length !== expected.length || !right) {
        result.failure ??= `in case ${result.nCases}, ${name} is [${short(got)}], expected [${short(expected)}]`;
      }
      result.maxDifference = Math.max(result.maxDifference, ...differences);
    }
    result.nCases += 1;
  }
  return result;
}

const short = (values) => values.slice(0, 6).join(", ") + (values.length > 6 ? ", ..." : "");
