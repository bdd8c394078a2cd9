// The retrieval map: a question among the passages, in two of the many dimensions that the search uses.

import {el, replace, svg} from './dom.js';
import {send} from './api.js';

const WIDTH = 640;
const HEIGHT = 400;
const MARGIN = 28;

/** Returns the map of a pane, closed; it is asked for when it is opened. */
export function map(pane) {
  const content = el('div', {class: 'map'});
  const fetched = async () => {
    const {question, model, index} = pane.turn;
    replace(content, el('p', {class: 'soft'}, 'Looking up the embeddings …'));
    try {
      const {value} = await send('GET', `map?${new URLSearchParams({question, model, index})}`);
      replace(content, ...drawn(value.points));
    } catch (error) {
      replace(content, el('p', {class: 'notice wrong', role: 'alert'}, error.message));
    }
  };
  const details = el('details', {id: `${pane.name}-map`, open: pane.mapOpen, ontoggle: () => {
    pane.mapOpen = details.open;
    if (details.open && !content.hasChildNodes()) fetched();
  }}, el('summary', {}, 'Retrieval map'), content);
  return details;
}

function drawn(points) {
  const question = points.find((point) => point.docid === null);
  const found = points.filter((point) => point.rank !== null);
  const others = points.filter((point) => point.docid !== null && point.rank === null);
  const picture = svg('svg', {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': described(question, found, others)},
    ...others.map((point) => dot(point, 'other', 3)),
    ...found.map((point) => line(question, point)),
    // The best come last, on top of the others.
    ...found.toReversed().flatMap((point) => [dot(point, 'found', 11), number(point)]),
    diamond(question));
  const nearest = el('ol', {class: 'small'}, ...found.map((point) => el('li', {}, point.title || point.docid,
    el('span', {class: 'soft'}, ` (${point.docid})`))));
  return [picture,
    el('p', {class: 'small key'}, el('span', {class: 'key-question'}), 'the question ', el('span', {class: 'key-found'}), 'found, by rank ',
      el('span', {class: 'key-other'}), 'other passages'),
    el('p', {class: 'soft small'}, 'Drawn along the two directions in which these embeddings differ most. The search uses all dimensions, so what ',
      'is near here need not be near there.'),
    nearest];
}

function described(question, found, others) {
  const distance = (point) => Math.hypot(point.x - question.x, point.y - question.y);
  const [nearest] = found.toSorted((one, other) => distance(one) - distance(other));
  const end = nearest ? ` Nearest to the question in the picture is passage ${nearest.rank}, ${nearest.title || nearest.docid}.` : '';
  return `Map of the question, ${found.length} passages found for it and ${others.length} others.${end} The passages found are listed below.`;
}

// Coordinates are from -1 to 1; y goes up.
const left = (point) => MARGIN + (point.x + 1) / 2 * (WIDTH - 2 * MARGIN);
const top = (point) => MARGIN + (1 - point.y) / 2 * (HEIGHT - 2 * MARGIN);

function dot(point, kind, radius) {
  return svg('circle', {class: kind, cx: left(point), cy: top(point), r: radius}, svg('title', {}, point.title || point.docid));
}

function number(point) {
  return svg('text', {x: left(point), y: top(point) + 4, 'text-anchor': 'middle', 'aria-hidden': 'true'}, String(point.rank));
}

function line(from, to) {
  return svg('line', {x1: left(from), y1: top(from), x2: left(to), y2: top(to)});
}

function diamond(point) {
  const [x, y] = [left(point), top(point)];
  return svg('path', {class: 'question', d: `M${x} ${y - 11}l11 11l-11 11l-11 -11z`}, svg('title', {}, point.title));
}
