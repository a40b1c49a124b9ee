; The last pattern that matches a node counts.

; A function in a call that has a name, outside functions: `const Card = memo(function () {…})`,
; `list: procedure.query(() => {…})`. Callbacks of collections, promises and timers have none.
([
  (variable_declarator
    name: (identifier) @name
    value: (_
      [function: (_) constructor: (_)] @_callee
      arguments: (arguments [
        (arrow_function) (function_expression) (generator_function)
        (call_expression arguments: (arguments [(arrow_function) (function_expression) (generator_function)]))
      ])))
  (assignment_expression
    left: [(identifier) (member_expression)] @qualified
    right: (_
      [function: (_) constructor: (_)] @_callee
      arguments: (arguments [
        (arrow_function) (function_expression) (generator_function)
        (call_expression arguments: (arguments [(arrow_function) (function_expression) (generator_function)]))
      ])))
  (pair
    key: (_) @name
    value: (call_expression
      function: (_) @_callee
      arguments: (arguments [
        (arrow_function body: (statement_block)) (function_expression) (generator_function)
      ])))
  (export_statement
    "default" @name
    value: (call_expression
      function: (_) @_callee
      arguments: (arguments [
        (arrow_function) (function_expression) (generator_function)
        (call_expression arguments: (arguments [(arrow_function) (function_expression) (generator_function)]))
      ])))
] @function
  (#set! level "module")
  (#not-match? @_callee "(^|\\.)(map|flatMap|filter|find|findIndex|some|every|forEach|reduce|reduceRight|sort|from|replace|replaceAll|then|catch|finally|subscribe|setTimeout|setInterval)$"))
(export_statement
  value: (call_expression arguments: (arguments [
    (function_expression name: (_) @name)
    (call_expression arguments: (arguments (function_expression name: (_) @name)))
  ]))
  (#set! level "module")) @function
(arguments (function_expression name: (_) @name) @function (#set! level "module"))
(array (function_expression name: (_) @name) @function (#set! level "module"))

; A function in a call that has a string as the first argument: `router.get('/orders', …)`, `it('adds', …)`.
((call_expression
  function: [
    (identifier) @call
    (member_expression property: (property_identifier) @call)
  ]
  arguments: (arguments
    .
    [(string) (template_string)] @label
    [
      (arrow_function) (function_expression) (generator_function)
      (call_expression arguments: (arguments [(arrow_function) (function_expression) (generator_function)]))
    ]) @function)
  (#set! level "module")
  (#not-match? @call "^(define|require|replace|replaceAll|only|skip|todo|failing|concurrent|sequential)$"))
; tests, also in functions: `it('adds', …)`, `it.only(…)`, `test.each(…)('adds %i', …)`
((call_expression
  function: [
    (identifier) @call
    (member_expression
      object: [(identifier) @call (member_expression property: (property_identifier) @call)]
      property: (property_identifier) @_modifier)
    (member_expression property: (property_identifier) @call)
    (call_expression function: (member_expression
      object: [(identifier) @call (member_expression property: (property_identifier) @call)]
      property: (property_identifier) @_modifier))
  ]
  arguments: (arguments
    .
    [(string) (template_string)] @label
    [(arrow_function) (function_expression) (generator_function)]) @function)
  (#any-of? @call "it" "fit" "xit" "test" "xtest" "specify" "bench")
  (#any-of? @_modifier "only" "skip" "each" "todo" "failing" "fails" "concurrent" "sequential" "skipIf" "runIf"))
; groups of tests, which are classes of functions
((call_expression
  function: [
    (identifier) @call
    (member_expression object: (identifier) @call property: (property_identifier) @_modifier)
    (member_expression object: (identifier) @_object property: (property_identifier) @call)
    (call_expression function: (member_expression
      object: (identifier) @call
      property: (property_identifier) @_modifier))
  ]
  arguments: (arguments
    .
    [(string) (template_string)] @label
    [(arrow_function) (function_expression)]) @module)
  (#any-of? @call "describe" "fdescribe" "xdescribe" "context" "suite" "module")
  (#any-of? @_modifier "only" "skip" "each" "todo" "concurrent" "sequential" "skipIf" "runIf")
  (#any-of? @_object "test" "QUnit"))
; hooks of tests and middleware have no string
((call_expression
  function: [(identifier) @name (member_expression property: (property_identifier) @name)]
  arguments: (arguments . [(arrow_function) (function_expression)]) @function)
  (#set! level "module")
  (#any-of? @name "before" "beforeEach" "beforeAll" "after" "afterEach" "afterAll" "setup" "teardown" "use"))
; objects and classes in a call that has a string: `Vue.component('cart', {…})`
(expression_statement (call_expression
  function: [(identifier) @call (member_expression property: (property_identifier) @call)]
  arguments: (arguments
    .
    [(string) (template_string)] @label
    [
      (class)
      (object [
        (method_definition)
        (pair value: [(arrow_function) (function_expression) (object (method_definition))])
      ])
    ]) @class)
  (#set! level "module"))
((call_expression
  function: (member_expression object: (identifier) @_object property: (property_identifier) @_callee)
  arguments: (arguments . [(identifier) (member_expression)] @qualified . (string) @name . (object [
    (method_definition)
    (pair value: [(arrow_function) (function_expression)])
  ])) @function)
  (#set! level "module")
  (#eq? @_object "Object")
  (#eq? @_callee "defineProperty"))

; members of objects outside functions, and of objects in functions that are named or returned
([
  (pair key: (_) @name value: [(arrow_function) (function_expression) (generator_function)]) @method
  (object (method_definition name: (_) @name) @method)
] (#set! level "module"))
(_
  [value: (object [
    (pair key: (_) @name value: [(arrow_function) (function_expression) (generator_function)]) @method
    (method_definition name: (_) @name) @method
  ])
  right: (object [
    (pair key: (_) @name value: [(arrow_function) (function_expression) (generator_function)]) @method
    (method_definition name: (_) @name) @method
  ])])
(return_statement (object [
  (pair key: (_) @name value: [(arrow_function) (function_expression) (generator_function)]) @method
  (method_definition name: (_) @name) @method
]))
(arrow_function body: (parenthesized_expression (object [
  (pair key: (_) @name value: [(arrow_function) (function_expression) (generator_function)]) @method
  (method_definition name: (_) @name) @method
])))

; objects with functions in them
(pair key: (_) @name value: (object [
  (method_definition)
  (pair value: [
    (arrow_function) (function_expression)
    (object [(method_definition) (pair value: [(arrow_function) (function_expression)])])
  ])
])) @scope
(variable_declarator name: (identifier) @name value: (object [
  (method_definition)
  (pair value: [
    (arrow_function) (function_expression)
    (object [(method_definition) (pair value: [(arrow_function) (function_expression)])])
  ])
])) @class
(assignment_expression left: [(identifier) (member_expression)] @qualified right: (object [
  (method_definition)
  (pair value: [
    (arrow_function) (function_expression)
    (object [(method_definition) (pair value: [(arrow_function) (function_expression)])])
  ])
]) (#not-match? @qualified "(^|\\.)(exports|prototype)$")) @class
(assignment_expression left: (member_expression) @qualified right: (object)
  (#match? @qualified "\\.prototype$")) @scope
(variable_declarator name: (identifier) @name value: (_
  arguments: (arguments (object [
    (method_definition)
    (pair value: [
      (arrow_function) (function_expression)
      (call_expression arguments: (arguments [(arrow_function body: (statement_block)) (function_expression)]))
      (object [(method_definition) (pair value: [(arrow_function) (function_expression)])])
    ])
  ])))
  (#set! level "module")) @class
; the name of a component: `export default { name: 'Cart', … }`
(export_statement value: [
  (object (pair key: (property_identifier) @_key value: (string) @name))
  (call_expression arguments: (arguments . (object (pair key: (property_identifier) @_key value: (string) @name)) .))
] (#eq? @_key "name")) @class
; the members of `Object.assign(Cart.prototype, {…})`
((call_expression
  function: (member_expression property: (property_identifier) @_callee)
  arguments: (arguments . (member_expression) @qualified (object)))
  (#any-of? @_callee "assign" "extend" "mixin")
  (#match? @qualified "\\.(prototype|fn)$")) @scope
; the module pattern: `const cart = (function () {…})()`
(variable_declarator name: (identifier) @name value: (call_expression
  function: [
    (function_expression)
    (parenthesized_expression [
      (function_expression) (arrow_function) (call_expression function: (function_expression))
    ])
  ])) @scope

; functions and classes
(function_declaration name: (_) @name) @function
(generator_function_declaration name: (_) @name) @function
(return_statement (function_expression name: (_) @name) @function)
(variable_declarator name: (identifier) @name
  value: [(arrow_function) (function_expression) (generator_function)]) @function
(assignment_expression left: [(identifier) (member_expression)] @qualified
  right: [(arrow_function) (function_expression) (generator_function)]) @function
(assignment_expression left: (member_expression) @_left right: (function_expression name: (_) @name)
  (#match? @_left "^(module\\.)?exports$")) @function
(export_statement "default" @name value: [(arrow_function) (function_expression)]) @function
(export_statement "default" value: (function_expression name: (_) @name)) @function
(class_declaration name: (_) @name) @class
(variable_declarator name: (identifier) @name value: (class)) @class
(assignment_expression left: [(identifier) (member_expression)] @qualified right: (class)) @class
(assignment_expression left: (member_expression) @_left right: (class name: (_) @name)
  (#match? @_left "^(module\\.)?exports$")) @class
(export_statement "default" @name value: (class)) @class
(return_statement (class name: (_) @name) @class)
(class_body (method_definition name: (_) @name) @method)
(class_body (class_static_block) @method (#set! name "static"))
(comment) @comment
(decorator) @attribute
