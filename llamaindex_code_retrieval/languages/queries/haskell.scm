(declarations (data_type name: [(name) @name (prefix_id (_) @name)]) @class)
(data_instance (data_type name: (_) @name)) @class
(declarations (newtype name: [(name) @name (prefix_id (_) @name)]) @class)
(declarations (type_synonym name: [(name) @name (prefix_id (_) @name)]) @class)
(declarations (type_family name: [(name) @name (prefix_id (_) @name)]) @class)
(declarations (data_family name: [(name) @name (prefix_id (_) @name)]) @class)
(class name: [(name) @name (prefix_id (_) @name)]) @class
; `Show (Tree a)`
((instance name: (_) @name patterns: (type_patterns) @name) @class (#set! join " "))

; a function is its signature and the equations below it; those of `where` and `let` are local
((declarations (signature name: [(variable) @name (prefix_id (_) @name)]) @prototype) (#set! merge))
((declarations (signature names: (binding_list (_) @name .)) @prototype) (#set! merge))
((declarations [(function name: [(variable) @name (prefix_id (_) @name)])
  (function (infix operator: [(operator) @name (infix_id (_) @name)]))
  (function (function_head_parens (infix operator: [(operator) @name (infix_id (_) @name)])))] @function) (#set! merge))
((_ declaration: (signature name: [(variable) @name (prefix_id (_) @name)]) @prototype) (#set! merge))
((_ declaration: (signature names: (binding_list (_) @name .)) @prototype) (#set! merge))
((_ declaration: [(function name: [(variable) @name (prefix_id (_) @name)])
  (function (infix operator: [(operator) @name (infix_id (_) @name)]))
  (function (function_head_parens (infix operator: [(operator) @name (infix_id (_) @name)])))
  (bind name: [(variable) @name (prefix_id (_) @name)])] @function) (#set! merge))
; without a signature, `limit = 8` and `test3 = check "x"` are constants
((declarations (bind name: [(variable) @name (prefix_id (_) @name)]) @function) (#set! merge "only"))
((declarations (bind name: [(variable) @name (prefix_id (_) @name)] match: (match expression:
  [(do) (lambda) (lambda_case) (case) (let_in) (conditional) (multi_way_if) (infix)])) @function) (#set! merge))
((declarations (bind name: [(variable) @name (prefix_id (_) @name)] match: (match guards: (_))) @function) (#set! merge))
((declarations (bind name: [(variable) @name (prefix_id (_) @name)] binds: (_)) @function) (#set! merge))
(pattern_synonym (equation synonym: [(constructor) @name (apply . (constructor) @name)])) @function
(pattern_synonym (equation synonym: (infix operator: [(constructor_operator) (infix_id)] @name))) @function
(foreign_import (signature name: (_) @name)) @function

; a statement `it "adds" $ do …`
(exp (infix left_operand: (apply function: (variable) @call argument: (literal (string) @label))
  operator: (_) right_operand: [(do) (lambda)]) @function)

((comment) @comment (#not-match? @comment "^--+\\s*(\\^|\\*)"))
((haddock) @comment (#not-match? @comment "^--+\\s*(\\^|\\*)"))
((haddock) @trailing (#match? @trailing "^(--+|\\{-)\\s*\\^"))
(pragma) @attribute
