// Makes elements. Text becomes text nodes and HTML is never parsed, because passages and answers are untrusted.

const SVG = 'http://www.w3.org/2000/svg';

/** Returns an element. `properties` are attributes (true sets, false omits) or, as `on…` functions, listeners. */
export function el(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** Returns an SVG element; see `el`. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (typeof value === 'function') element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Returns the element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Replaces an element's children; the focus stays on the element with the same id. */
export function replace(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.id : '';
  element.replaceChildren(...children.flat().filter(Boolean));
  if (focused) byId(focused)?.focus({preventScroll: true});
}

/** Makes a screen reader say a text. */
export function announce(text) {
  byId('announce').textContent = text;
}

/** Returns a bar. Its length is a property, because the page's security policy forbids style attributes. */
export function bar(kind, share, offset = 0) {
  const filling = el('span', {class: `filling ${kind}`});
  filling.style.setProperty('inline-size', `${(100 * share).toFixed(2)}%`);
  filling.style.setProperty('margin-inline-start', `${(100 * offset).toFixed(2)}%`);
  return el('span', {class: 'bar', 'aria-hidden': 'true'}, filling);
}

/** Returns a share from 0 to 1 as a percentage. */
export function percent(share) {
  return `${Math.round(100 * share)} %`;
}
