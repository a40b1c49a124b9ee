(function_definition name: (_) @name) @function
(class_definition name: (_) @name) @class
(decorated_definition definition: (_) @inner) @outer
(comment) @comment

; functions without a body: overloads, stubs and members of protocols
(function_definition name: (_) @name body: (block . (comment)* . (expression_statement (ellipsis)) .)) @prototype
(function_definition name: (_) @name
  body: (block . (expression_statement (string)) . (expression_statement (ellipsis)) .)) @prototype
((decorated_definition (decorator [(identifier) (attribute)] @_decorator)
  definition: (function_definition name: (_) @name) @prototype)
  (#match? @_decorator "(^|\\.)overload$"))

(module (expression_statement (assignment left: (identifier) @name right: (lambda)) @function))
(class_definition
  body: (block (expression_statement (assignment left: (identifier) @name right: (lambda)) @function)))

; types that are values of names
(type_alias_statement left: (type [(identifier) @name (generic_type . (identifier) @name)])) @class
((assignment left: (identifier) @name type: (type) @_type) @class (#match? @_type "(^|\\.)TypeAlias$"))
((assignment left: (identifier) @name right: (call function: (_) @_call arguments: (argument_list . (string)))) @class
  (#match? @_call "^(collections\\.|t\\.|typing\\.|typing_extensions\\.|te\\.)?(namedtuple|NamedTuple|TypedDict|NewType|make_dataclass)$"))
