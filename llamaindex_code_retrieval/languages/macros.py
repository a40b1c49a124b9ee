"""What grammars cannot read: regular expressions whose groups are left out before parsing."""

from __future__ import annotations

_CAPITALS = r"[A-Z][A-Z0-9_]{2,}\b"
# lengths are bounded, so that the time stays linear
_BRACKETS = r"\((?:[^()]|\((?:[^()]|\([^()]{0,200}\)){0,200}\)){0,400}\)"
_MACRO = rf"{_CAPITALS}(?:[ \t]*{_BRACKETS})?"
_TYPE = r"(?:\w+(?:::\w+)*(?:<[^<>;{}()\n]*>)?[\s*&]+){1,8}"
_NAME = r"(?:\w+::){0,4}(?:\w+|\([ \t]*\w+[ \t]*\)|operator\b[^\w\s(]*)"
_KEYWORDS = (
    "auto|bool|char|class|const|constexpr|double|enum|explicit|float|friend|inline|int|long|operator|short|signed|"
    "static|struct|template|union|unsigned|virtual|void"
)
_ROW = r"(?<![=+|&(<?\\-]\n)^[ \t]*"  # that does not continue an expression

# comments in macros of several rows are left out; other comments, strings and directives are passed over
_PASSED = "|".join(
    (
        r"(/\*(?:[^*\n\\]|\\\n|\\.|\*(?!/)){0,500}\*/)(?=[^\n]{0,300}\\\n)",
        r"//[^\n]*|/\*(?:[^*]|\*(?!/))*|\"(?:\\.|[^\"\\\n])*\"|^[ \t]*#(?:[^\\\n/]|/(?!\*)|\\.|\\\n)*",
    )
)
_MACROS = "|".join(
    (
        # `class API Name : Base {` would be read as a function, or with the name of the macro
        rf"\b(?:class|struct|union|enum)\s+((?:{_MACRO}\s+){{1,4}})(?=\w+\s*(?:final\s*)?[:{{<])",
        # `API int f(int x)`, `API ~A()`, `API A() : b(1)`
        r"(?:^|[;{}>]|\b(?:static|inline|extern|virtual|explicit|friend|constexpr|typedef|template|\"C\"))[ \t]*"
        rf"({_MACRO}(?:\s+{_MACRO}){{0,3}})"
        rf"(?=\s+(?:~|(?:{_KEYWORDS})\b|{_TYPE}{_NAME}[ \t]*[(;=\[]|\w+{_BRACKETS}\s*(?:noexcept\s*)?:(?!:)))",
        # a row that is only a macro, without a semicolon and no type of the function below; `TRY {`
        rf"{_ROW}({_CAPITALS}(?!\s+(?!if|for|while|switch)\w+\s*\([^;{{}}]{{0,400}}\)\s*\{{)"
        rf"|[A-Z][A-Z0-9_]*[ \t]*{_BRACKETS})[ \t]*(?://.*|/\*.*\*/[ \t]*)?$"
        r"(?!\s*(?:[;,)=+*|&?:.<>{\]-]|/(?![/*])))",
        rf"{_ROW}({_CAPITALS})(?=\s*\{{)",
        # `void f() API {`, `void f() API;`
        rf"\)\s*(?:(?:const|noexcept|override|final)\s+)*({_MACRO}(?:\s+{_MACRO}){{0,3}})"
        r"(?=\s*(?:[{;=]|:\s+\w|->|(?:const|noexcept|override|final)\b))",
        # `if CONSTEXPR (a)`, `template <class T, ENABLE_IF(…)>`, `typedef int (API *f)(int)`
        rf"\b(?:if|for|while)[ \t]+({_CAPITALS})(?=[ \t]+\()|(,\s*{_CAPITALS}\s*{_BRACKETS})(?=\s*>)",
        rf"\(({_CAPITALS})\s*\*\s*\w+\s*\)\s*\(",
        # `T *nonnull value`, `constexpr A::operator int()`
        r"(?<=[*&])[ \t]*(\w*(?:[nN]onnull|[nN]ullable|null(?:ability)?_(?:unspecified|unknown)))(?=[ \t]+\w|[,)])",
        r"\b(constexpr)(?=[ \t]+(?:\w+::)+operator\b)",
        # types as arguments
        rf"^({_CAPITALS}{_BRACKETS}[ \t]*;)|(?<![&*])([&*]{{1,3}})(?=\s*\)\s*;)",
        # `int count GUARDED_BY(mutex);`
        r"[\w>*&][ \t]+[*&]*(?!(?:return|else|throw|new|delete|do|goto|case|co_\w+|"
        rf"{_KEYWORDS})\b)\w+\s+([A-Z]+_[A-Z0-9_]*[ \t]*{_BRACKETS})(?=[ \t]*;)",
        # annotations of the Linux kernel
        r"\b(__(?:acquires\([^()\n]*\)|always_inline|always_unused|bitwise|cold|devexit|devinit|exit|exitdata|force|hot|"
        r"init|initconst|initdata|iomem|kernel|latent_entropy|malloc|maybe_unused|must_check|net_exit|net_init|noreturn|"
        r"percpu|pure|rcu|ref|refdata|releases\([^()\n]*\)|sched|unused|used|user|visible|weak))\b",
        # access specifiers
        rf"^[ \t]*({_CAPITALS}[ \t]*:)[ \t]*$"
        r"|\b(?:public|protected|private)[ \t]+(\w+)[ \t]*:(?!:)|^[ \t]*(signals[ \t]*:)[ \t]*$",
    )
)
C_MACROS = rf"{_PASSED}|{_MACROS}"
"""Macros in capitals, where only a macro can stand, and what Qt adds to classes."""

OBJECTIVE_C = "|".join(
    (
        _PASSED,
        # `typedef NS_ENUM(NSInteger, Kind) {` becomes `enum Kind {`
        r"\b(?:(typedef)\s+)?(?P<enum>[A-Z]{2}_(?:CLOSED_|ERROR_)?(?:ENUM|OPTIONS)[ \t]*\([^,()\n]+,[ \t]*)\w+(\))"
        r"(?=\s*\{)",
        # `- (void)close API;`
        rf"^[-+][^;{{}}]{{0,1000}}?[\w)]\s+({_MACRO}(?:\s+{_MACRO}){{0,3}})(?=\s*[;{{])",
        _MACROS,
    )
)

_KOTLIN_DECLARATION = r"\b(?:fun|val|var)[ \t]+(?:<[^(){}=;\n]{1,200}?>[ \t]+)?"
KOTLIN = "|".join(
    (
        r"//[^\n]*|/\*(?:[^*]|\*(?!/))*|\"(?:\\.|[^\"\\\n])*\"",  # not in comments and strings
        # `fun interface`, `actual constructor`, `val type: @Marked Int`, `$$"$id"`
        r"\b(fun)[ \t]+interface\b|\b(suspend)(?=[ \t]*\{)|"
        r"\b((?:(?:private|protected|internal|public)[ \t]+)?(?:actual|expect))(?=[ \t]+constructor\b)",
        r"(?<=:)[ \t]*(@\w+(?:\([^()\n]*\))?)(?=[ \t]+\w)|(\$\$+)(?=\")",
        # receivers: `fun Map<Int, List<T>>.only()`, `fun a.b.C.only()`
        rf"{_KOTLIN_DECLARATION}[\w.]+(<[^{{}}=;\n]{{1,200}}?>)(?=\??\.[\w`])",
        rf"{_KOTLIN_DECLARATION}((?:[a-z]\w*\.)+)(?=[A-Z]\w*[.<?])",
        # annotations of getters and setters
        r"(@[\w.:]+(?:\([^()\n]*\))?)(?=\s+(?:get|set)[ \t]*\()",
        # `val model = Model()`, and then a call of `get`, which would be read as its getter
        r"^[ \t]*va[lr]\b[^\n]*\n\s*(get)(?=\([\"\w]|[ \t]*\{)",
    )
)
