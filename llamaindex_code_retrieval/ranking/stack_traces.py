"""Read the frames and the error message of stack traces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from llamaindex_code_retrieval.ranking.identifiers import Identifier
from llamaindex_code_retrieval.ranking.places import Place, clean_path

_LONGEST_LINE = 500
_LONGEST_ERROR = 500
_NUMBER = re.compile("[0-9]")

_AT_LINE = r"(?P<path>[^\s:()](?:[^\s:()]|:(?![0-9]))*):(?P<line>[0-9]{1,8})"
_FRAMES = {
    "python": r'\s*File "(?P<path>[^"]+)", line (?P<line>[0-9]{1,8})(?:, in (?P<function>[\w.<>]+))?',
    "ipython": rf"\s*File {_AT_LINE}, in (?P<function>[\w.<>]+)",
    "pytest": rf"{_AT_LINE}: (?:in (?P<function>[\w.<>]+)|[A-Z]\w*(?:Error|Exception|Failed))$",
    "java": r"\s*at (?:[\w.@-]+/+)*(?P<function>[\w.$<>-]+)\((?P<path>[\w.$-]+):(?P<line>[0-9]{1,8})\)",
    "csharp": r"\s*at (?P<function>[^\s(]+)\(.*\) in (?P<path>.+):line (?P<line>[0-9]{1,8})",
    "javascript": rf"\s*at (?:async |new )*(?P<function>[^\s()]+)(?: \[as [^\]]*\])? \({_AT_LINE}(?::[0-9]+)?\)",
    "javascript without a function": rf"\s*at (?:async )?{_AT_LINE}:[0-9]+\s*$",
    "firefox": rf"\s*(?P<function>[\w.$<>/*]*)@{_AT_LINE}:[0-9]+\s*$",
    "go": r"\s+(?P<path>\S+\.go):(?P<line>[0-9]{1,8})(?: \+0x[0-9a-f]+)?\s*$",
    "rust panic": rf"thread '.*' (?:\([0-9]+\) )?panicked at (?:'.*', )?{_AT_LINE}(?::[0-9]+)?:?\s*$",
    "ruby": rf"\s*(?:[0-9]+: )?(?:from )?{_AT_LINE}:in [`'](?P<function>[^']+)'",
    "php": r"#[0-9]+ (?P<path>[^(]+)\((?P<line>[0-9]{1,8})\): (?P<function>[\w\\{}]+(?:(?:->|::)[\w{}]+)*)",
    "gdb": rf"#[0-9]+\s+(?:0x[0-9a-f]+ in )?(?P<function>[^\s(]+) \(.*\) at {_AT_LINE}",
    "dart": rf"#[0-9]+\s+(?P<function>[\w.]+)[^()]*\({_AT_LINE}(?::[0-9]+)?\)",
    "elixir": rf"\s*(?:\([^()]*\) )?{_AT_LINE}: (?:anonymous fn/[0-9]+ in )?(?P<function>[\w.!?]+)/[0-9]+",
    "lua": rf"\s*{_AT_LINE}: in (?:[a-z]+ )+[<'](?P<function>[^'>\s]+)['>]",
    "zig": rf"{_AT_LINE}:[0-9]+: 0x[0-9a-f]+ in (?P<function>[^\s(]+)",
    "julia": r"\s*\[[0-9]+\] (?P<function>[^\s(]+).*? @ \S+ (?P<path>\S+):(?P<line>[0-9]{1,8})",
    "julia below the function": r"\s+@ \S+ (?P<path>\S+):(?P<line>[0-9]{1,8})",
    "perl": r"\s+(?P<function>[\w:]+)\(.*\) called at (?P<path>\S+) line (?P<line>[0-9]{1,8})\.?$",
    "rust compiler": rf"\s*--> {_AT_LINE}(?::[0-9]+)?\s*$",
    "compiler": rf"{_AT_LINE}(?::[0-9]+)?: (?:fatal )?error\b",
    "typescript": r"(?P<path>[^\s(]+)\((?P<line>[0-9]{1,8}),[0-9]+\): error\b",
}
_OUTERMOST_FIRST = {"python", "ipython", "pytest"}
_FUNCTION_ABOVE = {  # formats with the function in the line before
    "go": re.compile(r"(?:created by )?(?P<function>[\w./-]*\w(?:\.\(\*?\w+(?:\[\.\.\.\])?\))?(?:\.\w+)*)"),
    "javascript without a function": re.compile(r"\s*[0-9]+:\s+(?:0x[0-9a-f]+ - )?(?P<function>\S.*)"),  # of Rust
    "julia below the function": re.compile(r"\s*\[[0-9]+\] (?P<function>[^\s(]+)"),
}

_ERROR_CLASS = r"(?:[^\W\d][\w$]{0,100}(?:\.|::|\\))*[^\W\d]\w*(?:Error|Exception|Interrupt|Failure|Warning|Exit)"
_BEFORE_ERROR = (
    r"(?:E   |Caused by: |(?:(?:PHP )?Fatal error:\s+)?Uncaught |Unhandled exception\W+|ERROR: |lua: "
    r'|Exception in thread "[^"]*" |thread [0-9]+ )'
)
_BOILERPLATE = re.compile(
    rf"^{_BEFORE_ERROR}|^\s+at .*|^\s*\.\.\. [0-9]+ more$|^\s*\[C\]: .*|^Traceback \(most recent call last\):$"
    r"|^[\s~^|-]+$|^\s*[0-9]*\s+\|.*|^=+ .* =+$|^_+ .* _+$|^(?:FAILED|ERROR) (?=\S+::)"
    r"|^(?:Stack ?trace|stack backtrace|stack traceback|goroutine [0-9]+ \[[^\]]*\]):$|^#[0-9]+ \{main\}$",
    re.IGNORECASE,
)
_ERROR_LINE = re.compile(
    rf"{_BEFORE_ERROR}*"
    rf"(?P<error>(?:{_ERROR_CLASS}|Error|Exception)(?::\s.*)?|(?:panic|fatal error): .+|error(?:\[\w+\])?: .+)$"
    r"|\*\* \((?P<elixir>[\w.]+)\) (?P<elixir_message>.*)"
    r"|\S+:[0-9]+:in [`'][^']*': (?P<ruby>.+)"
    r"|\S+(?::[0-9]+|\([0-9]+,[0-9]+\))(?::[0-9]+)?: (?P<compiler>(?:fatal )?error\b.*)"
    r"|thread '.*' (?:\([0-9]+\) )?panicked at '(?P<rust>.*)', \S+$|lua: \S+:[0-9]+: (?P<lua>.*)"
)
_AFTER_PYTHON_FRAMES = re.compile(r"(?P<error>[^\W\d][\w.]*(?:: .*)?)$")
_ERROR_IN_PROSE = re.compile(rf"(?<![\w$.:\\]){_ERROR_CLASS}: \S.*")


_Found = Sequence[tuple[int, str, Place]]  # the number of the line, the format, the frame


@dataclass(frozen=True, slots=True)
class StackTrace:
    """The frames of a text, innermost first, its error message and the lines that are neither."""

    frames: tuple[Place, ...]
    error: str | None
    other_lines: tuple[str, ...]

    @staticmethod
    def of(text: str) -> StackTrace:
        """Read the stack traces of a text; a text without any has no frames.

        >>> trace = StackTrace.of('Traceback:\\n  File "a.py", line 3, in load\\n    read(x)\\nKeyError: 1')
        >>> trace.frames[0].path, trace.frames[0].line, trace.frames[0].function.name, trace.error
        ('a.py', 3, 'load', 'KeyError: 1')
        """
        lines = text.splitlines()
        found = list(_read_frames(lines))
        if not found:
            match = _ERROR_IN_PROSE.search(text)
            return StackTrace((), _shorten(match[0]) if match else None, tuple(lines))
        frames = [frame for _, _, frame in found]
        formats = {name for _, name, _ in found}
        if formats <= _OUTERMOST_FIRST or "most recent call last" in text:
            frames.reverse()
        elif causes := [number for number, line in enumerate(lines) if line.lstrip().startswith("Caused by: ")]:
            # the last cause is the first error
            frames = [frame for number, _, frame in found if number > causes[-1]] + [
                frame for number, _, frame in found if number < causes[-1]
            ]
        used = _used_lines(lines, found)
        error = _error(lines, found)
        others = [_BOILERPLATE.sub("", line) for number, line in enumerate(lines) if number not in used]
        if error and not any(error in line for line in others):
            others.append(error)  # of the line of a frame
        return StackTrace(tuple(dict.fromkeys(frames)), error, tuple(others))


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    """Compile ``_FRAMES``: not when the module is imported, as this takes longer than reading most questions."""
    return {name: re.compile(pattern) for name, pattern in _FRAMES.items()}


def _read_frames(lines: Sequence[str]) -> Iterator[tuple[int, str, Place]]:
    for number, line in enumerate(lines):
        if len(line) > _LONGEST_LINE or not _NUMBER.search(line):
            continue
        for name, pattern in _patterns().items():
            if match := pattern.match(line):
                groups = match.groupdict()
                function = groups.get("function")
                if name in _FUNCTION_ABOVE and number and len(lines[number - 1]) <= _LONGEST_LINE:
                    above = _FUNCTION_ABOVE[name].match(lines[number - 1])
                    function = above["function"] if above else function
                path = clean_path(groups["path"])
                if path.startswith("<") or path == "native":
                    break
                frame = Place(path=path, line=int(groups["line"]))
                yield number, name, replace(frame, function=_function(function) if function else None)
                break


_NO_FUNCTIONS = re.compile(
    r"<[^<>]*>|\{\{?[a-z-]+(?:#[0-9]+)?\}?\}|func[0-9]+(?:\.[0-9]+)*|h[0-9a-f]{16}|main>|[0-9]+|"
)


_TYPE_PARAMETERS = re.compile(r"(?<=\w)(?:::)?<(?!(?:anonymous|c?l?init)>)[^<>]*>|::<impl [^<>]*>")
_ANONYMOUS = re.compile(r"[A-Z]\w*\.<anonymous>")


def _function(written: str) -> Identifier | None:
    """Return the function that a frame names: without type parameters, closures and what compilers add."""
    text = re.sub(r"^(?:block|rescue|ensure)(?: \([^()]*\))? in ", "", written.strip())  # of Ruby
    text = re.sub(r"<([\w]+)>[bdg]__[\w|]*(?:`[0-9]+)?(?:\.MoveNext)?", r"\1", text)  # of C#: async methods and lambdas
    text = re.sub(r"lambda\$([\w]+)\$[0-9]+", r"\1", text)  # of Java
    text = re.sub(r"\[[^\]]*\]|`[0-9]+", "", text.rpartition("/")[2])
    text = re.sub(r"\(\*?(\w+)\)", r"\1", text)  # of Go: `(*Server).Serve`
    while (shorter := _TYPE_PARAMETERS.sub("", text)) != text:
        text = shorter
    text = re.sub(r"^<([\w:]+)(?: as [^<>]*)?>::", r"\1::", text)  # of Rust: `<A as B>::f`
    parts = [part for part in re.split(r"\.|::|->|#|\\|\$|\+", text) if not _NO_FUNCTIONS.fullmatch(part)]
    if not parts or _ANONYMOUS.fullmatch(text) or not re.fullmatch(r"[\w?!~]+", parts[-1]):
        return None
    return Identifier(name=parts[-1], scope=tuple(parts[:-1]), text=written.strip())


def _used_lines(lines: Sequence[str], found: _Found) -> set[int]:
    """Return the numbers of the lines of frames, of the code below them and of the functions above them."""
    used: set[int] = set()
    for number, name, _ in found:
        used.add(number)
        if name in _FUNCTION_ABOVE and number and _FUNCTION_ABOVE[name].match(lines[number - 1]):
            used.add(number - 1)
        if name in _OUTERMOST_FIRST:
            indent = len(lines[number]) - len(lines[number].lstrip())
            for below in range(number + 1, min(number + 4, len(lines))):
                if len(lines[below]) - len(lines[below].lstrip()) <= indent:
                    break
                used.add(below)
    return used


def _error(lines: Sequence[str], found: _Found) -> str | None:
    """Return the error message: the last of a trace that ends with it, the last cause, else the first."""
    last, name, _ = found[-1]
    if name == "python":
        for line in lines[last + 1 :]:
            if line[:1].strip() and len(line) <= _LONGEST_LINE and (match := _AFTER_PYTHON_FRAMES.match(line)):
                return _shorten(match["error"])
    errors: list[str] = []
    for number, line in enumerate(lines):
        match = _ERROR_LINE.match(line.strip()) if len(line) <= _LONGEST_LINE else None
        if match:
            message = match["error"] or match["ruby"] or match["compiler"] or match["rust"] or match["lua"]
            error = message or f"{match['elixir']}: {match['elixir_message']}"
            if line.lstrip().startswith("Caused by: "):
                errors.insert(0, error)
            else:
                errors.append(error)
        elif "panicked at" in line and line.rstrip().endswith(":") and number + 1 < len(lines):
            errors.append(lines[number + 1].strip())
    return _shorten(errors[0]) if errors else None


def _shorten(error: str) -> str:
    return error.strip()[:_LONGEST_ERROR]
