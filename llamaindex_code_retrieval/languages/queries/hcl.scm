; outermost blocks by their type and labels, as in `data.aws_ami.base`; resources are referred to without `resource`
(config_file (body (block . (identifier) @name . (block_start)) @class))
(config_file (body (block . (identifier) @owner . [(string_lit) (identifier)] @name . (block_start)) @class))
(config_file (body (block . (identifier) @owner . [(string_lit) (identifier)] @owner .
  [(string_lit) (identifier)] @name . (block_start)) @class))
(config_file (body (block . (identifier) @_type . [(string_lit) (identifier)] @owner .
  [(string_lit) (identifier)] @name . (block_start)) @class (#eq? @_type "resource")))
(comment) @comment
