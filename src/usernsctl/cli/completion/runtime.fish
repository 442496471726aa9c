# Classifies the words before the word that is being typed. Prints what may be typed, one kind per
# line: "flag any PATH", "operand NUMBER PATH" or "rest NUMBER PATH", where PATH is the words that
# select the verb, and NUMBER is the number of the operand, or of the first word of a command.
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

# Completes the rest of the line, from the first word of a command on, as a line of its own.
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
    # Drop lines that are not names, whichever program prints them.
    command usernsctl completion --names $argv[1] 2>/dev/null </dev/null |
        string match -r '^[A-Za-z0-9_][A-Za-z0-9_.-]*$'
end

