// Asks the API, and says in words what went wrong. Only what is known to be so is said: an answer that no API gave is the
// server's, and a question without an answer is the connection's.

// A panel takes a tenth of a second; the server gives up after ten.
const ANSWER_MS = 15_000;

// A question that was not answered as asked. `code` is the API's; null where it was not the API that answered, or nobody.
export class Trouble extends Error {
  constructor(message, { code = null, status = null } = {}) {
    super(message);
    Object.assign(this, { code, status });
  }
}

// `mine` is aborted when the answer takes too long.
export async function ask(url, mine) {
  const late = setTimeout(() => mine.abort(), ANSWER_MS);
  try {
    const response = await fetch(url, { signal: mine.signal, cache: "no-store" });
    return told(response, await response.text());
  } catch (error) {
    throw error instanceof Trouble ? error : new Trouble(error.message);
  } finally {
    clearTimeout(late);
  }
}

// The API's answer, or why it is none.
function told({ ok, status }, text) {
  const body = parsed(text);
  if (ok && body !== null) return body;
  const { code, message } = body?.error ?? {};
  throw code ? new Trouble(message, { code, status }) : new Trouble(text.slice(0, 100), { status });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

// The reason in few words, and the sentence with the time since when.
export function worded(error) {
  if (!(error instanceof Trouble)) return { reason: "the page failed", since: (t) => `The page failed at ${t}: ${error.message}.` };
  const { code, message, status } = error;
  if (code === "clickhouse_unreachable") {
    return { reason: "ClickHouse cannot be reached", since: (t) => `ClickHouse cannot be reached since ${t}.` };
  }
  if (code) {
    const reason = REASONS[code] ?? code;
    return { reason, since: (t) => `${message[0].toUpperCase()}${message.slice(1)} (${code}, since ${t}).` };
  }
  if (status) return { reason: `the page's server answered ${status}`, since: (t) => `The page's server answered ${status}, since ${t}.` };
  return { reason: "connection lost", since: (t) => `Connection lost at ${t}.` };
}

const REASONS = {
  busy: "too many panels are being read",
  clickhouse_slow: "ClickHouse is slow",
  clickhouse_refused: "ClickHouse refused the query",
};
