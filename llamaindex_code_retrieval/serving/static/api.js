// Requests to the JSON API of this page's own server.

async function checked(response) {
  if (response.ok) return response;
  let message = `the server answered ${response.status}`;
  try {
    message = (await response.json()).error || message;
  } catch {
    // no JSON: a proxy answered
  }
  throw new Error(message);
}

async function request(url, options) {
  try {
    return await checked(await fetch(url, options));
  } catch (error) {
    if (error instanceof TypeError) throw new Error("the server cannot be reached; is it still running?");
    throw error;
  }
}

function query(parameters) {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== "") pairs.append(name, each);
    }
  }
  return pairs.toString();
}

export async function get(path, parameters, signal) {
  return (await request(`${path}?${query(parameters)}`, { signal })).json();
}

// Calls onEvent(name, data) for each server-sent event of an answer.
export async function ask(body, onEvent, signal) {
  const response = await request("/api/ask", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const lines = buffer.slice(0, end).split("\n");
      buffer = buffer.slice(end + 2);
      const of = (field) => lines.filter((line) => line.startsWith(`${field}: `)).map((line) => line.slice(field.length + 2));
      if (of("data").length) onEvent(of("event")[0], JSON.parse(of("data").join("\n")));
    }
  }
}
