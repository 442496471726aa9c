# What is said by the words before the one that is being typed: the path of verbs, what may come,
# and the number of operands that there are.
function @name@_where
    set -l words (commandline -opc)
    set -l path (string replace -r '.*/' '' -- $words[1])
    set -l verbs
    set -l apart
    set -l command -1
    set -l at 0
    set -l ended no
    set -l takes no
    set -l number 1
    @name@_table
    for word in $words[2..]
        set number (math $number + 1)
        if test $takes = yes
            set takes no
        else if test $ended = no; and test "$word" = --
            set ended yes
        else if test $ended = no; and string match -qr -- '^-.' $word
            contains -- $word $apart; and set takes yes
        else if set -q verbs[1]
            contains -- $word $verbs; or return
            set path "$path $word"
            @name@_table
        else if test $at -eq $command
            echo rest $number $path
            return
        else
            set at (math $at + 1)
        end
    end
    if test $ended = no
        echo flag any $path
        test $takes = yes; or string match -q -- '-*' (commandline -ct); and return
    end
    if test $at -eq $command
        echo rest (math $number + 1) $path
    end
    echo operand $at $path
end

function @name@_table -S
    switch $path
@table@
    end
end

function @name@_is
    set -l words $argv
    for found in (@name@_where)
        set -l kind (string split -m 2 ' ' -- $found)
        test "$kind[1] $kind[3]" = "$words[1] $words[3..]"; or continue
        switch $words[2]
            case any
                return 0
            case '*+'
                test $kind[2] -ge (string replace + '' -- $words[2]); and return 0
            case '*'
                test $words[1] = rest; or test $kind[2] = $words[2]; and return 0
        end
    end
    return 1
end

# What is left of the line, from a word on, is a command of its own.
function @name@_rest
    set -l words (commandline -opc)
    for found in (@name@_where)
        set -l kind (string split -m 2 ' ' -- $found)
        test $kind[1] = rest; or continue
        set -l rest (string escape -- $words[$kind[2]..])
        set -l line (string join ' ' -- $rest (commandline -ct))
        complete --do-complete="$line"
    end
end

function @name@_names
    # What is no name is left out, whatever it is that answers.
    command usernsctl completion --names $argv[1] 2>/dev/null </dev/null |
        string match -r '^[A-Za-z0-9_][A-Za-z0-9_.-]*$'
end

