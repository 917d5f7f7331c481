"""From rewards to pairs: length balance, selection and experience replay, in pure numpy."""
