include Http.Header with type t = Http.Header.t
  and type 'a io = 'a
