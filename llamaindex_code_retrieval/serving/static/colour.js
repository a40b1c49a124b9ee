// Colours code by a scan for comments, strings, numbers and keywords; languages without an entry stay plain.
import { element } from "./dom.js";

const words = (text) => new Set(text.split(" "));
const C = { line: ["//"], block: [["/*", "*/"]], quotes: ['"', "'"] };
const HASH = { line: ["#"], block: [], quotes: ['"', "'"] };
const COMMON = "break case catch class const continue default do else enum false finally for if import in new null return static super switch this throw true try void while";

const FAMILIES = [
  ["python starlark", { ...HASH, triple: ['"""', "'''"], keywords: words("and as assert async await break case class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return self True try while with yield") }],
  ["javascript typescript vue svelte", { ...C, multi: ["`"], keywords: words(`${COMMON} as async await debugger delete export extends from function implements instanceof interface let of private protected public readonly type typeof undefined var yield`) }],
  ["java kotlin scala groovy csharp dart swift", { ...C, triple: ['"""'], keywords: words(`${COMMON} abstract as async await base bool boolean byte char companion data def double extends extension final float fun func get guard implements instanceof int interface internal is lateinit let long match namespace nil object open out override package private protected public readonly ref sealed self set short string struct suspend synchronized throws trait type using val var virtual where with yield`) }],
  ["c cpp cuda objectivec", { ...C, keywords: words(`${COMMON} #define #elif #else #endif #if #ifdef #ifndef #include auto bool char constexpr delete double explicit extern float friend goto inline int long namespace noexcept nullptr operator override private protected public register short signed sizeof struct template typedef typename union unsigned using virtual volatile`) }],
  ["go", { ...C, multi: ["`"], keywords: words("any bool break byte case chan const continue default defer else error fallthrough false for func go goto if import int interface map nil package range return rune select string struct switch true type var") }],
  ["rust", { line: ["//"], block: [["/*", "*/"]], quotes: ['"'], keywords: words("as async await bool break const continue crate dyn else enum extern false fn for i32 i64 if impl in let loop match mod move mut pub ref return self Self static str struct super trait true type u8 u32 u64 unsafe use usize where while") }],
  ["php", { line: ["//", "#"], block: [["/*", "*/"]], quotes: ['"', "'"], keywords: words(`${COMMON} abstract and array as echo elseif extends final fn foreach function global implements instanceof interface namespace or private protected public readonly trait use yield`) }],
  ["ruby", { ...HASH, keywords: words("alias and begin break case class def do else elsif end ensure false for if in module next nil not or raise redo rescue retry return self super then true undef unless until when while yield") }],
  ["elixir", { ...HASH, triple: ['"""'], keywords: words("after alias and case catch cond def defmacro defmodule defp defstruct do else end false fn for if import in nil not or raise receive require rescue true try unless use when with") }],
  ["bash makefile dockerfile cmake", { ...HASH, keywords: words("case do done elif else esac exit export fi for function if in local read return set shift source then until while") }],
  ["yaml toml ini", { ...HASH, keywords: words("false no null true yes") }],
  ["json", { line: [], block: [], quotes: ['"'], keywords: words("false null true") }],
  ["lua", { line: ["--"], block: [["--[[", "]]"]], quotes: ['"', "'"], keywords: words("and break do else elseif end false for function goto if in local nil not or repeat return then true until while") }],
  ["sql", { line: ["--"], block: [["/*", "*/"]], quotes: ["'"], keywords: words("and as begin by case create delete desc distinct drop else end exists from group having in insert into is join left limit not null on or order primary references select set table then union unique update values view when where SELECT FROM WHERE AND OR NOT NULL INSERT INTO UPDATE DELETE CREATE TABLE JOIN ON AS ORDER BY GROUP HAVING LIMIT VALUES SET") }],
  ["r julia", { ...HASH, quotes: ['"'], keywords: words("begin break do else elseif end export FALSE false for function if import in let local macro module mutable next NULL quote repeat return struct TRUE true try using where while") }],
  ["perl", { ...HASH, keywords: words("and else elsif for foreach if last local my next no not or our package redo return sub undef unless until use while") }],
  ["powershell", { line: ["#"], block: [["<#", "#>"]], quotes: ['"', "'"], keywords: words("begin break catch class continue do else elseif end enum exit filter finally for foreach function if in param process return switch throw try until while") }],
  ["hcl", { line: ["#", "//"], block: [["/*", "*/"]], quotes: ['"'], keywords: words("data false for if in locals module null output provider resource terraform true variable") }],
  ["graphql", { line: ["#"], block: [], triple: ['"""'], quotes: ['"'], keywords: words("directive enum extend fragment implements input interface mutation on query scalar schema subscription type union") }],
  ["protobuf", { ...C, keywords: words("bool bytes double enum extend extensions false float import int32 int64 map message oneof option optional package public repeated required reserved returns rpc service stream string syntax to true uint32 uint64") }],
  ["solidity", { ...C, keywords: words("abstract address bool break bytes calldata constant constructor contract continue do else emit enum error event external false fallback for function if import indexed interface internal is library mapping memory modifier new override payable pragma private public pure receive require return returns revert storage string struct this true try uint uint256 unchecked using view virtual while") }],
  ["zig", { line: ["//"], block: [], quotes: ['"'], keywords: words("and break catch comptime const continue defer else enum errdefer error export extern false fn for if inline null or orelse packed pub return struct switch test true try undefined union unreachable usingnamespace var while") }],
  ["haskell", { line: ["-- "], block: [["{-", "-}"]], quotes: ['"'], keywords: words("case class data deriving do else family forall if import in infix infixl infixr instance let module newtype of qualified then type where") }],
  ["ocaml", { line: [], block: [["(*", "*)"]], quotes: ['"'], keywords: words("and as begin class do done else end exception external false for fun function functor if in include inherit let match method module mutable new object of open rec sig struct then true try type val when while with") }],
  ["css", { line: [], block: [["/*", "*/"]], quotes: ['"', "'"], keywords: words("") }],
];

const LANGUAGES = new Map(FAMILIES.flatMap(([names, rules]) => names.split(" ").map((name) => [name, rules])));
const WORD = /[\p{L}_#$][\p{L}\p{N}_$]*[?!]?/uy;
const NUMBER = /\d[\d_]*(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)?[\p{L}\d_]*/uy;
const LONGEST = 2000; // characters of a line that is coloured

function endOfString(text, start, quote) {
  let at = start + 1;
  while (at < text.length && text[at] !== quote) at += text[at] === "\\" ? 2 : 1;
  return Math.min(at + 1, text.length);
}

// Returns [kind, text] parts of one line, and what is still open at its end: {close, kind}, or null.
function scan(text, rules, open) {
  const parts = [];
  const push = (kind, part) => part && parts.push([kind, part]);
  let at = 0;
  let plain = 0;
  const flush = (kind, end) => {
    push("", text.slice(plain, at));
    push(kind, text.slice(at, end));
    at = plain = end;
  };
  if (open) {
    const end = text.indexOf(open.close);
    if (end < 0) return [[[open.kind, text]], open];
    flush(open.kind, end + open.close.length);
    open = null;
  }
  const openers = [
    ...rules.block.map(([from, to]) => [from, to, "c"]),
    ...(rules.triple || []).map((quote) => [quote, quote, "s"]),
    ...(rules.multi || []).map((quote) => [quote, quote, "s"]),
  ];
  while (at < text.length) {
    const opener = openers.find(([from]) => text.startsWith(from, at));
    if (opener) {
      const [from, close, kind] = opener;
      const end = text.indexOf(close, at + from.length);
      if (end < 0) {
        open = { close, kind };
        flush(kind, text.length);
      } else flush(kind, end + close.length);
      continue;
    }
    const before = text[at - 1];
    const comment = rules.line.find((mark) => text.startsWith(mark, at));
    if (comment && (comment !== "#" || !before || /\s/.test(before))) {
      flush("c", text.length);
      continue;
    }
    if (rules.quotes.includes(text[at])) {
      flush("s", endOfString(text, at, text[at]));
      continue;
    }
    WORD.lastIndex = NUMBER.lastIndex = at;
    const word = WORD.exec(text);
    const number = word ? null : NUMBER.exec(text);
    if (word && rules.keywords.has(word[0])) flush("k", at + word[0].length);
    else if (number) flush("n", at + number[0].length);
    else at += word ? word[0].length : 1;
  }
  push("", text.slice(plain));
  return [parts, open];
}

// Returns a list of child nodes for each line. After a line that is `gap` other lines are left out.
export function coloured(lines, language, gap = null) {
  const rules = LANGUAGES.get(language);
  let open = null;
  return lines.map((line) => {
    if (line === gap) open = null; // what was open is closed in between
    if (!rules || line.length > LONGEST) return [line];
    let parts;
    [parts, open] = scan(line, rules, open);
    return parts.map(([kind, text]) => (kind ? element("span", { class: kind }, text) : text));
  });
}

export function codeBlock(text, language) {
  const code = element("code");
  coloured(text.split("\n"), language, "...").forEach((nodes, i) => code.append(...(i ? ["\n"] : []), ...nodes));
  return element("pre", {}, code);
}
