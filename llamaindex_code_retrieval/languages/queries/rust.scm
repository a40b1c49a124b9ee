(trait_item name: (_) @name) @class
(struct_item name: (_) @name) @class
(enum_item name: (_) @name) @class
(union_item name: (_) @name) @class
(impl_item type: (_) @owner) @class
; the types of an implementation are part of it
(source_file (type_item name: (_) @name) @class)
(mod_item body: (declaration_list (type_item name: (_) @name) @class))
(mod_item name: (_) @name body: (_)) @module

(function_item name: (_) @name) @function
(function_signature_item name: (_) @name) @prototype
(macro_definition name: (_) @name) @function
(const_item name: (_) @name value: (closure_expression)) @function
(static_item name: (_) @name value: (closure_expression)) @function
(call_expression function: (_) @call
  arguments: (arguments . (string_literal) @label (closure_expression body: (block)))) @function

; macros around definitions, as in `cfg_rt! { pub fn … }`
(source_file (macro_invocation (token_tree "{") @reparse))
(declaration_list (macro_invocation (token_tree "{") @reparse))
; `cfg_if! { if #[cfg(unix)] { pub fn … } }`
(macro_invocation macro: (_) @_macro (token_tree "{" (token_tree "{") @reparse) (#match? @_macro "cfg_if$"))
; a call of a macro that makes a function of a name and a block, as in `rgtest!(name, |dir: Dir| { … })`
(source_file (_ (macro_invocation macro: (_) @call (token_tree "(" . (identifier) @label "," (token_tree "{") . ")"))) @function)

([(line_comment) (block_comment)] @comment (#not-match? @comment "^(//!|/\\*!)"))  ; those describe what is around them
((attribute_item) @attribute (#not-match? @attribute "^#\\[doc\\s*=\\s*r?#*\""))
((attribute_item) @comment (#match? @comment "^#\\[doc\\s*=\\s*r?#*\""))
