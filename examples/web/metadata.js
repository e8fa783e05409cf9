// The metadata in an ONNX file. onnxruntime-web does not show it, so this reads the few bytes that are needed: a
// protobuf message is a list of fields, and field 14 of the outermost one (ModelProto.metadata_props) is a pair of
// strings. https://protobuf.dev/programming-guides/encoding/

/** Every metadata entry of an ONNX file: an object of strings. */
export function readEntries(bytes) {
  const entries = {};
  for (const [number, pair] of fields(bytes)) {
    if (number === 14) {
      const text = Object.fromEntries([...fields(pair)].map(([n, value]) => [n, new TextDecoder().decode(value)]));
      entries[text[1] ?? ""] = text[2] ?? "";
    }
  }
  return entries;
}

/** The record that sb3_clanker writes, or null where there is none. */
export function readRecord(bytes) {
  const entries = readEntries(bytes);
  return "sb3_clanker" in entries ? JSON.parse(entries.sb3_clanker) : null;
}

/** Number and content of each field that has a length; the others are stepped over. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    // Multiplied, not shifted: JavaScript shifts 32 bits only.
    for (let value = 0, scale = 1; ; scale *= 128) {
      if (at >= bytes.length) throw new Error("This is no ONNX file: it ends in the middle of a field.");
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const wire = tag % 8;
    if (wire === 0) varint();
    else if (wire === 1) at += 8;
    else if (wire === 5) at += 4;
    else if (wire === 2) {
      const end = varint() + at;
      if (end > bytes.length) throw new Error("This is no ONNX file: a field is longer than the file.");
      yield [Math.floor(tag / 8), bytes.subarray(at, end)];
      at = end;
    } else throw new Error("This is no ONNX file: it holds a field of an unknown type.");
  }
}
