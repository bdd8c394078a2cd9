// Requests to the server. Every failure becomes a Problem, whose text tells the reader what to do.

/** A failed request; `status` is 0 if the server was not reached. */
export class Problem extends Error {
  constructor(status, detail, retryAfter = null) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const UNREACHED = 'The server cannot be reached. What you typed is kept; ask again when it is back.';
const CUT = 'The connection ended before the answer was complete. Ask again.';
let listener = () => {};

/** Calls a function after each request with whether the server was reached. */
export function onReached(callback) {
  listener = callback;
}

/** Sends a request. Returns the JSON value (null if empty) and the ETag. Throws Problem, or AbortError if `signal` stopped it. */
export async function send(method, path, {body, token, etag, signal} = {}) {
  const response = await reach(method, path, {body, token, etag, signal});
  const text = response.status === 204 ? '' : await response.text();
  return {value: text ? JSON.parse(text) : null, etag: response.headers.get('ETag')};
}

/** Asks, and yields [event, value] pairs: passages, token, answer. Throws the same errors as `send`. */
export async function* stream(body, signal) {
  const response = await reach('POST', 'answer', {body: {...body, stream: true}, signal});
  let answered = false;
  for await (const [event, value] of events(response.body, signal)) {
    if (event === 'error') throw new Problem(value.status, sentence(value.detail));
    answered ||= event === 'answer';
    yield [event, value];
  }
  if (!answered) throw new Problem(0, CUT);
}

async function reach(method, path, {body, token, etag, signal}) {
  const headers = {Accept: 'application/json'};
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (token) headers.Authorization = `Bearer ${token}`;
  if (etag) headers['If-Match'] = etag;
  let response;
  try {
    // Relative, so that the page also works under a path of a proxy.
    response = await fetch(path, {method, headers, signal, cache: 'no-store', body: body === undefined ? undefined : JSON.stringify(body)});
  } catch (error) {
    throw unreached(error);
  }
  listener(true);
  if (!response.ok) throw await problemOf(response);
  return response;
}

function unreached(error) {
  if (error.name === 'AbortError') return error;
  listener(false);
  return new Problem(0, UNREACHED);
}

async function problemOf(response) {
  const after = Number(response.headers.get('Retry-After')) || null;
  try {
    const {detail} = await response.json();
    if (typeof detail === 'string' && detail) return new Problem(response.status, sentence(detail), after);
  } catch {
    // A proxy's own page: only its status helps.
  }
  return new Problem(response.status, `The server answered with status ${response.status}. Try again, or look at its log.`, after);
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');
}

async function* events(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const {done, value} = await reader.read();
      if (done) return;
      // An event ends with an empty line and may arrive in several pieces.
      const blocks = (rest + value).replaceAll('\r\n', '\n').split('\n\n');
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parsed(block);
        if (event) yield event;
      }
    }
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw signal?.aborted ? new DOMException('stopped', 'AbortError') : unreached(error);
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const fields = block.split('\n').filter((line) => !line.startsWith(':')).map((line) => line.match(/^([^:]*):? ?(.*)$/s));
  const data = fields.filter((field) => field[1] === 'data').map((field) => field[2]).join('\n');
  const name = fields.findLast((field) => field[1] === 'event')?.[2] ?? 'message';
  return data ? [name, JSON.parse(data)] : null;
}

/** Returns the path of a passage in an index. */
export function passagePath(docid, {model, index}) {
  return `passages/${encodeURIComponent(docid)}?${new URLSearchParams({index, model})}`;
}
