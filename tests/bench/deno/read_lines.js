// What DSPy's runner takes from deno.land/std: the lines of a reader, one after another.
export async function* readLines(reader) {
  const decoder = new TextDecoder(), bytes = new Uint8Array(65536);
  let rest = "";
  for (let n = await reader.read(bytes); n !== null; n = await reader.read(bytes)) {
    const lines = (rest + decoder.decode(bytes.subarray(0, n), { stream: true })).split("\n");
    rest = lines.pop();
    yield* lines;
  }
  if (rest) yield rest;
}
