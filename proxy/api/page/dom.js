// A picture of the page as plain objects, and the least that has to be done to the document to make it look like that.
// What has not changed is not touched, so that focus, selection and scrolling stay where they are.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Describe an element. `props` are attributes; `on…` are listeners, `style` an object of CSS properties, `key` tells
 * siblings apart that may change their order. Children are elements, texts, arrays of these, or nothing (null, false).
 */
export function h(tag, props, ...children) {
  return { tag, props: props || {}, children: children.flat(Infinity).filter(isSomething).map(asNode) };
}

/** Make the children of `parent` look like `wanted`. */
export function patch(parent, wanted, svg = parent.namespaceURI === SVG) {
  const keyed = new Map();
  for (const node of parent.childNodes) if (node.key !== undefined) keyed.set(node.key, node);
  const descriptions = [wanted].flat(Infinity).filter(isSomething).map(asNode);
  const keys = new Set(descriptions.map(({ props }) => props?.key));
  let at = parent.firstChild;
  for (const description of descriptions) {
    // What has gone goes first: otherwise all behind it would be moved, and lose the focus with that.
    while (at && at.key !== undefined && !keys.has(at.key)) at = without(at);
    const key = description.props?.key;
    let node = key === undefined ? at : keyed.get(key);
    if (node && node.key === key && isLike(node, description)) {
      if (node === at) at = at.nextSibling;
      else parent.insertBefore(node, at);
    } else {
      node = create(description, svg);
      parent.insertBefore(node, at);
    }
    update(node, description);
  }
  while (at) at = without(at);
}

/** Remove a node; returns the one that stood behind it. */
function without(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

function isSomething(child) {
  return child !== null && child !== undefined && child !== false && child !== true;
}

function asNode(child) {
  return typeof child === "object" ? child : { text: String(child) };
}

function isLike(node, { tag, text }) {
  return text === undefined ? node.localName === tag : node.nodeType === Node.TEXT_NODE;
}

function create({ tag, text, props }, svg) {
  if (text !== undefined) return document.createTextNode("");
  const node = svg || tag === "svg" ? document.createElementNS(SVG, tag) : document.createElement(tag);
  if (props.key !== undefined) node.key = props.key;
  node.props = {};
  return node;
}

function update(node, { text, props, children }) {
  if (text !== undefined) {
    if (node.data !== text) node.data = text;
    return;
  }
  for (const name in node.props) if (!(name in props)) set(node, name, undefined);
  for (const name in props) if (node.props[name] !== props[name]) set(node, name, props[name]);
  node.props = props;
  patch(node, children);
}

function set(node, name, value) {
  if (name === "key") return;
  if (name.startsWith("on")) node[name.toLowerCase()] = value ?? null;
  else if (name === "style") Object.entries(value ?? {}).forEach(([property, to]) => node.style.setProperty(property, to));
  else if (value === undefined || value === null || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : value);
}
