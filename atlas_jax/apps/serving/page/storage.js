// The browser's storage. It may be forbidden, full or written by an older page; the page works without it.

const PREFIX = 'atlas-jax.';
const MOST_TURNS = 200;

function read(storage, name) {
  try {
    return storage().getItem(PREFIX + name);
  } catch {
    return null;
  }
}

/** Stores a text, or removes it if it is null. Returns whether it worked. */
function write(storage, name, text) {
  try {
    if (text === null) storage().removeItem(PREFIX + name);
    else storage().setItem(PREFIX + name, text);
    return true;
  } catch {
    return false;
  }
}

// Functions, because even reading these names can throw.
const tab = () => window.sessionStorage;
const browser = () => window.localStorage;

/** The token for changes, until the tab is closed. */
export const token = {
  get: () => read(tab, 'token') ?? '',
  set: (text) => write(tab, 'token', text || null),
};

/** The typed question, so that a reload does not lose it. */
export const draft = {
  get: () => read(tab, 'draft') ?? '',
  set: (text) => write(tab, 'draft', text || null),
};

/** 'light', 'dark', or 'system' for no choice. */
export const theme = {
  get: () => read(browser, 'theme') ?? 'system',
  set: (name) => write(browser, 'theme', name === 'system' ? null : name),
};

/** Whether single keys are shortcuts. */
export const keys = {
  get: () => read(browser, 'keys') !== 'off',
  set: (on) => write(browser, 'keys', on ? null : 'off'),
};

/** The answers so far, newest first. */
export const turns = {
  get() {
    try {
      const kept = JSON.parse(read(browser, 'history') ?? '[]');
      return Array.isArray(kept) ? kept.filter(isTurn) : [];
    } catch {
      return [];
    }
  },

  add(turn) {
    const kept = [turn, ...this.get()].slice(0, MOST_TURNS);
    // A browser grants a few megabytes: the oldest half is dropped until the rest fits.
    while (!write(browser, 'history', JSON.stringify(kept)) && kept.length > 1) kept.splice(Math.ceil(kept.length / 2));
  },

  clear: () => write(browser, 'history', null),
};

function isTurn(turn) {
  return typeof turn?.question === 'string' && typeof turn.text === 'string' && Array.isArray(turn.passages);
}
