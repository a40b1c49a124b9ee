(method name: (_) @name) @function
(singleton_method name: (_) @name) @function
(singleton_method object: [(constant) (scope_resolution)] @owner name: (_) @name) @function
(class name: (_) @qualified) @class
(module name: (_) @qualified) @class
(singleton_class value: [(constant) (scope_resolution)] @qualified) @scope

; classes and functions that are the values of constants
((assignment left: [(constant) (scope_resolution)] @qualified
  right: (call receiver: (constant) @_class method: (identifier) @_new)) @class
  (#any-of? @_class "Class" "Module" "Struct" "Data") (#any-of? @_new "new" "define"))
(assignment left: (constant) @name right: (lambda)) @function
((assignment left: (constant) @name right: (call !receiver method: (identifier) @_call block: (_))) @function
  (#any-of? @_call "lambda" "proc"))

; methods that calls define, with a body or without
((call method: (identifier) @_call
  arguments: (argument_list . [(simple_symbol) (delimited_symbol) (string)] @name) block: (_)) @function
  (#any-of? @_call "define_method" "define_singleton_method" "redefine_method"))
((call !receiver method: (identifier) @_call arguments: (argument_list . (simple_symbol) @name . (lambda))) @function
  (#any-of? @_call "scope" "define_method"))
((call !receiver method: (identifier) @_call arguments: (argument_list (simple_symbol) @name @prototype @inner)) @outer
  (#any-of? @_call "attr" "attr_reader" "attr_writer" "attr_accessor" "cattr_accessor" "mattr_accessor"
    "class_attribute" "delegate"))
((call !receiver method: (identifier) @_call arguments: (argument_list . (simple_symbol) @name)) @prototype
  (#eq? @_call "alias_method"))
(alias name: [(identifier) (simple_symbol) (constant) (operator) (setter)] @name) @prototype

; tests, tasks, routes and other blocks that a call names
((call method: (identifier) @call arguments: (argument_list . (_) @label) block: (_)) @module
  (#any-of? @call "describe" "fdescribe" "xdescribe" "context" "fcontext" "xcontext" "feature" "shared_examples"
    "shared_examples_for" "shared_context")
  (#not-match? @label "^(\\[|->|\\{)"))
((call method: (identifier) @call arguments: (argument_list . (_) @label) block: (_)) @function
  (#any-of? @call "it" "fit" "xit" "specify" "example" "scenario" "matcher")
  (#not-match? @label "^(\\[|->|\\{)"))
((call !receiver method: [(identifier) (constant)] @call
  arguments: (argument_list . [(simple_symbol) (string) (regex)] @label) block: (_)) @function
  (#any-of? @call "test" "should" "setup" "task" "multitask" "file" "rule" "lane" "factory" "trait" "get" "post" "put"
    "patch" "delete" "options" "head" "Given" "When" "Then" "And" "But"))
((call !receiver method: (identifier) @call arguments: (argument_list . (_) @label) block: (do_block)) @function
  (#any-of? @call "let" "let!" "subject"))
((call !receiver method: [(identifier) (constant)] @call
  arguments: (argument_list . (pair key: [(hash_key_symbol) (simple_symbol) (string)] @label)) block: (_)) @function
  (#any-of? @call "task" "multitask" "file" "rule"))
((call receiver: (_) @_class method: (identifier) @_new
  arguments: (argument_list . [(simple_symbol) (string)] @name) block: (_)) @function
  (#set! prefix "task ") (#match? @_class "Task$") (#eq? @_new "new"))
((call !receiver method: (identifier) @_call
  arguments: (argument_list . [(simple_symbol) (string)] @name) block: (_)) @scope
  (#eq? @_call "namespace"))

(comment) @comment
((call !receiver method: (identifier) @_call) @attribute (#any-of? @_call "sig" "desc"))
