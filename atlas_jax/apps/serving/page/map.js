// The retrieval map: a question among the passages, projected to two dimensions.

import {el, replace, svg} from './dom.js';
import {send} from './api.js';

const MARGIN = 28;
const HIGHEST = 400;

/** Returns the map of a pane; opening it fetches the data. */
export function map(pane) {
  const content = el('div', {class: 'map'});
  const fetched = async () => {
    const {question, model, index} = pane.turn;
    replace(content, el('p', {class: 'soft'}, 'Looking up the embeddings …'));
    try {
      const {value} = await send('GET', `map?${new URLSearchParams({question, model, index})}`);
      replace(content, ...drawn(value.points, content.clientWidth));
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

function drawn(points, width) {
  const question = points.find((point) => point.docid === null);
  const found = points.filter((point) => point.rank !== null);
  const others = points.filter((point) => point.docid !== null && point.rank === null);
  // One unit is one pixel, so that numbers keep their size on a phone.
  const [wide, high] = [Math.max(width, 280), Math.min(0.7 * Math.max(width, 280), HIGHEST)];
  // Coordinates range from -1 to 1; y points up.
  const at = (point) => [MARGIN + (point.x + 1) / 2 * (wide - 2 * MARGIN), MARGIN + (1 - point.y) / 2 * (high - 2 * MARGIN)];
  const picture = svg('svg', {viewBox: `0 0 ${wide} ${high}`, role: 'img', 'aria-label': described(question, found, others)},
    ...others.map((point) => dot(at(point), 'other', 3, point)),
    ...found.map((point) => line(at(question), at(point))),
    // The best are drawn last, on top of the others.
    ...found.toReversed().flatMap((point) => [dot(at(point), 'found', 11, point), number(at(point), point.rank)]),
    diamond(at(question), question.title));
  const nearest = el('ol', {class: 'small'}, ...found.map((point) => el('li', {}, point.title || point.docid,
    el('span', {class: 'soft'}, ` (${point.docid})`))));
  return [picture,
    el('p', {class: 'small key'}, ...[['question', 'the question'], ['found', 'found, by rank'], ['other', 'other passages']].map(([kind, words]) =>
      el('span', {}, el('i', {class: `key-${kind}`}), words))),
    el('p', {class: 'soft small'}, 'Drawn along the two directions in which these embeddings differ most. The search uses all dimensions, so ',
      'neighbours in this picture need not be neighbours in the search.'),
    nearest];
}

function described(question, found, others) {
  const distance = (point) => Math.hypot(point.x - question.x, point.y - question.y);
  const [nearest] = found.toSorted((one, other) => distance(one) - distance(other));
  const end = nearest ? ` Nearest to the question in the picture is passage ${nearest.rank}, ${nearest.title || nearest.docid}.` : '';
  return `Map of the question, ${found.length} passages found for it and ${others.length} others.${end} The passages found are listed below.`;
}

function dot([x, y], kind, radius, point) {
  return svg('circle', {class: kind, cx: x, cy: y, r: radius}, svg('title', {}, point.title || point.docid));
}

function number([x, y], rank) {
  return svg('text', {x, y: y + 4, 'text-anchor': 'middle', 'aria-hidden': 'true'}, String(rank));
}

function line([x1, y1], [x2, y2]) {
  return svg('line', {x1, y1, x2, y2});
}

function diamond([x, y], title) {
  return svg('path', {class: 'question', d: `M${x} ${y - 11}l11 11l-11 11l-11 -11z`}, svg('title', {}, title));
}
